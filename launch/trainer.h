// One rank's training run.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/trace.h"
#include "launch/config.h"
#include "launch/data.h"
#include "launch/profile.h"
#include "launch/report.h"
#include "launch/times.h"
#include "models/balance.h"
#include "models/metrics.h"
#include "models/pipeline.h"
#include "models/transformer.h"
#include "optim/optimizer.h"
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

  struct MicroBatch {
    std::int64_t number = 0, first_sample = 0;
    Windows windows;
  };

  Taken take_step(std::int64_t step);
  Taken take_profiled_step(std::int64_t step);
  void end_profile();
  std::vector<Statistics> run_micro_batches(std::int64_t step);
  void read_batch(std::int64_t step);
  void prepare(Context& context, const MicroBatch& micro_batch, std::int64_t step);
  void evaluate(std::int64_t step, bool is_last);
  void summarise(const StepStatistics& last, int signal);

  const config::Config& config_;
  const Data& data_;
  Reporter* reporter_;  // on rank 0
  ProfiledSteps profiled_;
  std::optional<Trace> trace_;
  std::int64_t trace_begin_ = 0;
  DType type_;
  Device device_;
  Mesh mesh_;
  Transformer model_;
  std::optional<Gradients> gradients_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Balance> balance_;
  std::optional<Pipeline> pipeline_;
  std::vector<MicroBatch> micro_batches_;  // this replica's, of the step
  double targets_ = 0, tokens_ = 0;        // that count, and all, in the global batch
  Heldout heldout_;                        // the last
  Times times_;
  Summary summary_;
  std::vector<double> losses_, step_seconds_;  // the latter of the steps as large as the last
};

}  // namespace pf
