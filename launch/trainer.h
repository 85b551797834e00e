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
#include "launch/times.h"
#include "models/metrics.h"
#include "parallel/mpi.h"

namespace pf {

class Trainer {
 public:
  // The ranks of a process share its machine's memory; `mpi`: this rank is a process.
  Trainer(const config::Config& config, const Data& data, Communicator& communicator,
          const Mpi* mpi, Reporter* reporter, ProfiledSteps profiled);
  // The signal that ended it, or 0.
  int run();

 private:
  struct Taken {
    StepReport report;
    StepStatistics statistics;
  };

  Taken take_step(std::int64_t step);
  Taken take_profiled_step(std::int64_t step);
  void end_profile();
  void evaluate(std::int64_t step, bool is_last);
  void summarise(const StepStatistics& last, int signal);

  const config::Config& config_;
  const Data& data_;
  Reporter* reporter_;  // on rank 0
  ProfiledSteps profiled_;
  std::optional<Trace> trace_;
  std::int64_t trace_begin_ = 0;
  Device device_;
  Mesh mesh_;
  Learner learner_;
  Heldout heldout_;  // the last
  Times times_;
  Summary summary_;
  std::vector<double> losses_, step_seconds_;  // the latter of the steps as large as the last
};

}  // namespace pf
