#include "launch/train.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "core/error.h"
#include "launch/data.h"
#include "launch/layout_rules.h"
#include "launch/rank_limits.h"
#include "launch/resume.h"
#include "launch/resume_rules.h"
#include "launch/run_folder.h"
#include "launch/signals.h"
#include "launch/terminal.h"
#include "launch/time_limit.h"
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

// How a run begins.
struct Start {
  config::Config config;           // to train
  std::string folder;              // of the checkpoint to go on from; empty: from the beginning
  std::int64_t step = 0;           // that it is of
  std::vector<std::string> lines;  // to be said

  bool is_finished() const { return step >= config.train().steps(); }
};

// All processes call, rank 0 with the candidates.
Start decide(const config::Config& given, const Data& data,
             const std::vector<std::string>& candidates, Communicator* world,
             const Places& places) {
  FakeCommunicator alone(0, 1);
  const ChosenCheckpoint chosen = choose_checkpoint(world != nullptr ? *world : alone, candidates);
  Start start{given, chosen.folder, 0, {}};
  for (const std::string& text : chosen.refused) start.lines.push_back("not used: " + text);
  if (chosen.folder.empty()) return start;
  const CheckpointFacts& facts = chosen.facts;
  Resumption resumption = resumed(facts.texts.at("config"), chosen.folder, given, places);
  check_same_data(facts.texts.at("data"), chosen.folder, data, places);
  start.config = std::move(resumption.config);
  start.step = facts.counts.at("step");
  if (start.is_finished()) return start;
  const std::string changes = in_words(resumption.changed);
  start.lines.push_back("goes on from step " + std::to_string(start.step) + ": " + chosen.folder +
                        (changes.empty() ? "" : " (" + changes + ")"));
  return start;
}

// Whether a checkpoint is one of that run's own.
bool is_of_run(const std::string& checkpoint, const config::Config& config) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path parent = fs::absolute(checkpoint, error).lexically_normal().parent_path();
  return fs::equivalent(parent, checkpoints_folder(config), error);
}

std::string text_of_finished(const Start& start) {
  return start.config.run().name() + " is finished: " + std::to_string(start.step) + " of " +
         std::to_string(start.config.train().steps()) + " steps, in " + start.folder +
         "; a larger train.steps goes on, run.resume=never begins anew\n";
}

void prepare_folder(const Start& start, std::optional<Reporter>& reporter) {
  const std::string& folder = start.config.run().folder();
  const bool is_own = !start.folder.empty() && is_of_run(start.folder, start.config);
  std::vector<std::string> lines = start.lines;
  if (is_own) {
    const std::vector<std::string> aside = set_later_checkpoints_aside(folder, start.step);
    lines.insert(lines.end(), aside.begin(), aside.end());
  }
  save_config(start.config, folder + "/config.yaml");
  reporter.emplace(folder, start.config.train().steps());
  for (const std::string& line : lines) reporter->line(line);
  if (is_own) reporter->go_on_after(start.step);
}

}  // namespace

int train(const config::Config& given, const Mpi* mpi, const TrainOptions& options) {
  check_supported(given, options.places);
  if (!options.profile.empty()) profiled_steps(options.profile, given.train().steps());
  at_key(options.places, "parallel.ranks", [&] { check_ranks(given, this_machine(given, mpi)); });
  const Data data(given, options.places);
  const bool is_first = mpi == nullptr || mpi->rank() == 0;
  RunFolder folder;
  if (is_first) folder = open_run_folder(given, options.places);
  const CommunicatorOptions communication = communicator_options(given);
  const std::unique_ptr<Communicator> world =
      mpi != nullptr ? mpi->communicator(communication) : nullptr;
  Start start = decide(given, data, folder.checkpoints, world.get(), options.places);
  const config::Config& config = start.config;
  if (start.is_finished()) {
    if (is_first) {
      for (const std::string& line : start.lines) print(line + '\n');
      print(text_of_finished(start));
    }
    return 0;
  }
  ProfiledSteps profiled;
  if (!options.profile.empty())
    profiled = profiled_steps(options.profile, config.train().steps(), start.step);
  std::optional<Reporter> reporter;
  if (is_first) {
    start.lines.insert(start.lines.begin(), folder.lines.begin(), folder.lines.end());
    at_key(options.places, "run.folder", [&] { prepare_folder(start, reporter); });
  }
  if (options.on_begin) options.on_begin();
  const SignalScope signals;
  CheckpointWriter writer(mpi != nullptr ? mpi->rank() : 0, mpi != nullptr ? mpi->rank() : 0,
                          mpi != nullptr ? 1 : int(config.parallel().ranks()));
  const TrainerParts parts{config, data, mpi, writer, folder.lock.get(), start.folder, profiled};
  int ended_by = 0;
  const auto run_rank = [&](Communicator& communicator) {
    const bool is_rank_0 = communicator.rank() == 0;
    Trainer trainer(parts, communicator, is_rank_0 ? &*reporter : nullptr);
    const int signal = trainer.run();
    if (is_rank_0 || mpi != nullptr) ended_by = signal;
  };
  if (world != nullptr)
    run_rank(*world);
  else
    run_thread_ranks(int(config.parallel().ranks()), run_rank, communication);
  if (ended_by == time_is_up) return time_limit_code;
  return ended_by == 0 ? 0 : 128 + ended_by;
}

}  // namespace pf
