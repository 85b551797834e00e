#include "launch/train.h"

#include <fstream>
#include <optional>

#include "core/error.h"
#include "launch/data.h"
#include "launch/layout_rules.h"
#include "launch/rank_limits.h"
#include "launch/run_folder.h"
#include "launch/signals.h"
#include "launch/trainer.h"

namespace pf {
namespace {

// Reports of the watchdog go to the run's folder.
CommunicatorOptions communicator_options(const config::Config& config) {
  CommunicatorOptions options;
  options.watchdog = config.debug().watchdog();
  options.checks_calls = config.debug().check_collectives();
  options.report = [folder = config.run().folder()](int rank, const std::string& journal) {
    std::ofstream(folder + "/waiting." + std::to_string(rank) + ".txt") << journal;
  };
  return options;
}

// What goes wrong in `action` is said with the place of `key`.
template <class F>
void at_key(const Places& places, const std::string& key, F action) {
  try {
    action();
  } catch (const Error& error) {
    places.fail(key, error.what());
  }
}

}  // namespace

int train(const config::Config& config, const Mpi* mpi, const TrainOptions& options) {
  check_supported(config, options.places);
  at_key(options.places, "parallel.ranks", [&] { check_ranks(config, this_machine(config, mpi)); });
  const Data data(config, options.places);
  std::optional<Reporter> reporter;
  if (mpi == nullptr || mpi->rank() == 0) {
    at_key(options.places, "run.folder", [&] {
      const std::string moved = make_run_folder(config.run().folder());
      save_config(config, config.run().folder() + "/config.yaml");
      reporter.emplace(config.run().folder(), config.train().steps());
      if (!moved.empty()) reporter->line(moved);
    });
  }
  if (options.on_begin) options.on_begin();
  const SignalScope signals;
  const CommunicatorOptions communication = communicator_options(config);
  int signal = 0;
  const auto run_rank = [&](Communicator& communicator) {
    const bool is_first = communicator.rank() == 0;
    Trainer trainer(config, data, communicator, mpi, is_first ? &*reporter : nullptr,
                    options.profiled);
    const int ended_by = trainer.run();
    if (is_first || mpi != nullptr) signal = ended_by;
  };
  if (mpi != nullptr)
    run_rank(*mpi->communicator(communication));
  else
    run_thread_ranks(int(config.parallel().ranks()), run_rank, communication);
  return signal == 0 ? 0 : 128 + signal;
}

}  // namespace pf
