#include "launch/prove_command.h"

#include "core/error.h"
#include "launch/prove_checkpoint.h"
#include "launch/prove_file.h"
#include "launch/prove_file_cases.h"
#include "launch/prove_optimizers.h"
#include "launch/prove_precision.h"
#include "launch/prove_search.h"
#include "launch/signals.h"
#include "launch/terminal.h"

namespace pf {

void ProveCommand::add_to(CLI::App& app) {
  given.add_to(app);
  app.add_option("--precision", precision);
  app.add_option("--random", random);
  app.add_option("--seed", seed);
  app.add_option("--case", first);
  app.add_flag("--forever", is_forever);
  app.add_option("--output", output);
}

int ProveCommand::run(int& failure) const {
  if (!is_forever && random == 0) return prove_file(failure);
  require(is_forever || random > 0, "--random: found ", random, ", wanted 1 or more cases");
  require(seed >= 0 && first >= 0, "--seed and --case: found ", seed, " and ", first,
          ", wanted 0 or more");
  require(precision.empty(), "--precision ", precision, ": random cases are proven in f64");
  require(!given.file.empty() || given.ranks.empty(), "--ranks ", given.ranks,
          ": random models have ranks of their own");
  const SignalScope signals;  // cases may take seconds to list
  const Cases cases = given.file.empty()
                          ? cases_of_any_model(std::uint64_t(seed))
                          : cases_of_file(given.file, given.changes(), std::uint64_t(seed));
  cases.of(first);  // what is wrong with the file is said as such
  failure = 1;
  return search({is_forever ? 0 : random, seed, first, output}, cases);
}

int ProveCommand::prove_file(int& failure) const {
  require(!given.file.empty(),
          "name the FILE to prove, like configs/prove/moe.yaml, or give --random N "
          "(see pentafold --help)");
  config::Run::Precision type = config::Run::f64;
  require(precision.empty() || config::Run::Precision_Parse(precision, &type),
          "--precision: found '", precision, "', wanted f64 (a proof), f32 or bf16 (a table)");
  const FileToProve wanted = file_to_prove(given.file, given.changes());
  const LayoutsOfModel layouts = layouts_to_prove(wanted);
  failure = 1;
  print(heading_of(wanted, config::Run::Precision_Name(type)));
  if (type == config::Run::f64) {
    const Descent one_rank = one_rank_of(wanted);
    bool holds = prove_layouts(layouts, one_rank);
    holds = prove_optimizers(layouts) && holds;
    const int of_files =
        wanted.config.checkpoint().every() > 0 ? prove_going_on(layouts, one_rank) : 0;
    return (of_files > 1 || holds) ? of_files : 1;
  }
  measure_layouts(wanted.config, layouts, type);
  return 0;
}

}  // namespace pf
