#include "launch/check_command.h"

#include "core/error.h"
#include "launch/check_report.h"
#include "launch/config_fill.h"
#include "launch/layout_rules.h"
#include "launch/terminal.h"

namespace pf {

void CheckCommand::add_to(CLI::App& app) {
  given.add_to(app);
  given.add_threads_to(app);
  app.add_option("--counts", counts);
  app.add_flag("--json", is_json);
}

int CheckCommand::run(int& failure) const {
  require(!given.file.empty(),
          "name the FILE to check, like configs/mixtral_8x22b.yaml (see pentafold --help)");
  Places places{"configuration", {}};
  const config::Config config = load_config(given.file, given.changes(), {.places = &places});
  check_supported(config, places);
  const CheckReport report = check(config, counts);
  failure = 1;
  print(is_json ? report.json() : report.text());
  return report.fits() ? 0 : 1;
}

}  // namespace pf
