#include "launch/file_arguments.h"

namespace pf {

void FileArguments::add_to(CLI::App& app) {
  app.add_option("FILE", file);
  app.add_option("KEY=VALUE", overrides);
  app.add_option("--ranks", ranks);
}

void FileArguments::add_threads_to(CLI::App& app) {
  app.add_option("--threads", threads);
}

std::vector<std::string> FileArguments::changes() const {
  std::vector<std::string> all = overrides;
  if (!ranks.empty()) all.push_back("parallel.ranks=" + ranks);
  if (!threads.empty()) all.push_back("parallel.threads=" + threads);
  return all;
}

}  // namespace pf
