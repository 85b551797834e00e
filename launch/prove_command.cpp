#include "launch/prove_command.h"

#include "core/error.h"
#include "launch/prove_file.h"

namespace pf {

void ProveCommand::add_to(CLI::App& app) {
  app.add_option("FILE", file);
  app.add_option("KEY=VALUE", overrides);
  app.add_option("--ranks", ranks);
}

int ProveCommand::run(int& failure) const {
  return prove_file(failure);
}

int ProveCommand::prove_file(int& failure) const {
  require(!file.empty(),
          "name the FILE to prove, like configs/prove/moe.yaml (see pentafold "
          "--help)");
  std::vector<std::string> all = overrides;
  if (!ranks.empty()) all.push_back("parallel.ranks=" + ranks);
  const FileToProve wanted = file_to_prove(file, all);
  layouts_to_prove(wanted);
  failure = 1;
  return prove_layouts(wanted) ? 0 : 1;
}

}  // namespace pf
