// One rank's training run.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/trace.h"
#include "launch/config.h"
#include "launch/data.h"
#include "launch/learner.h"
#include "launch/profile.h"
#include "launch/report.h"
#include "launch/run_lock.h"
#include "launch/saver.h"
#include "launch/times.h"
#include "models/metrics.h"
#include "parallel/mpi.h"

namespace pf {

// What the ranks of a process share.
struct TrainerParts {
  const config::Config& config;
  const Data& data;
  const Mpi* mpi = nullptr;  // each rank is a process
  CheckpointWriter& writer;
  const RunLock* lock = nullptr;  // of the process with rank 0
  const std::string& checkpoint;  // to go on from, which was verified; empty: from the beginning
  ProfiledSteps profiled;
};

// Beside signals, what ends a run: train.time_limit.
constexpr int time_is_up = 1000;

class Trainer {
 public:
  // `reporter` on rank 0.
  Trainer(const TrainerParts& parts, Communicator& communicator, Reporter* reporter);
  // The signal that ended it, time_is_up, or 0. Throws Error if its last checkpoint can't be saved.
  int run();

 private:
  struct Taken {
    StepReport report;
    StepStatistics statistics;
  };

  Taken take_step(std::int64_t step);
  Taken take_profiled_step(std::int64_t step);
  void end_profile();
  int wants_end() const;
  void restore(const Checkpoint& checkpoint);
  void save(std::int64_t step);
  void save_last(std::int64_t step);
  void evaluate(std::int64_t step, bool is_last);
  void summarise(const StepStatistics& last, int signal);

  const config::Config& config_;
  const Data& data_;
  const RunLock* lock_;
  Reporter* reporter_;
  ProfiledSteps profiled_;
  std::optional<Trace> trace_;
  std::int64_t trace_begin_ = 0;
  Device device_;
  Mesh mesh_;
  Learner learner_;
  Saver saver_;
  Heldout heldout_;              // the last
  std::int64_t first_step_ = 0;  // of this run of the program
  std::int64_t skipped_in_a_row_ = 0, evaluated_step_ = 0;
  double slowest_step_ = 0;  // seconds, with what lies between two steps
  Times times_;
  Summary summary_;
  std::vector<double> losses_, step_seconds_;  // the latter of the steps as large as the last
};

}  // namespace pf
