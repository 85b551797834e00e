#include "launch/check_command.h"

#include "core/error.h"
#include "launch/check_report.h"
#include "launch/config_fill.h"
#include "launch/layout_rules.h"
#include "launch/terminal.h"

namespace pf {

void CheckCommand::add_to(CLI::App& app) {
  app.add_option("FILE", file);
  app.add_option("KEY=VALUE", overrides);
  app.add_option("--ranks", ranks);
  app.add_option("--threads", threads);
  app.add_option("--counts", counts);
  app.add_flag("--json", is_json);
}

int CheckCommand::run(int& failure) const {
  require(!file.empty(),
          "name the FILE to check, like configs/mixtral_8x22b.yaml (see pentafold --help)");
  std::vector<std::string> all = overrides;
  if (!ranks.empty()) all.push_back("parallel.ranks=" + ranks);
  if (!threads.empty()) all.push_back("parallel.threads=" + threads);
  Places places{"configuration", {}};
  const config::Config config = load_config(file, all, {.places = &places});
  check_supported(config, places);
  const CheckReport report = check(config, counts);
  failure = 1;
  print(is_json ? report.json() : report.text());
  return report.fits() ? 0 : 1;
}

}  // namespace pf
