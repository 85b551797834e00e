// What one rank trains, and what a step makes of it: in training, and in a check without numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "launch/config.h"
#include "launch/data.h"
#include "models/balance.h"
#include "models/pipeline.h"
#include "models/transformer.h"
#include "optim/training_state.h"
#include "parallel/gradients.h"

namespace pf {

class Learner {
 public:
  // Gives samples [first, first + count).
  using Read = std::function<Windows(std::int64_t first, std::int64_t count)>;

  // Weights are initialised. Configuration and mesh must outlive it.
  Learner(const config::Config& config, const Mesh& mesh, Read read);

  // Forward and backward of this replica's part of a step's batch; gradients().finish() ends their
  // sums. `enter` is told of the parts of the work: see PipelineHooks.
  std::vector<Statistics> run(std::int64_t step, const std::function<void(const char*)>& enter);
  // After it: by the gradients times `scale`, and biases of routers by the choices of all ranks.
  void change_weights(double lr, double scale,
                      const std::vector<std::vector<double>>& expert_counts);

  // All that a resumed run needs of this rank; see training_state().
  std::vector<StateTensor> state();
  std::int64_t optimizer_steps() const { return optimizer_->steps_taken(); }
  // Goes on from a verified checkpoint.
  void restore(const Checkpoint& checkpoint);

  Transformer& model() { return model_; }
  Gradients& gradients() { return *gradients_; }
  Balance& balance() { return *balance_; }
  Pipeline& pipeline() { return *pipeline_; }

 private:
  struct MicroBatch {
    std::int64_t number = 0, first_sample = 0;
    Windows windows;
  };

  void read_batch(std::int64_t step);
  void prepare(Context& context, const MicroBatch& micro_batch, std::int64_t step);

  const config::Config& config_;
  const Mesh& mesh_;
  Read read_;
  DType type_;
  Transformer model_;
  std::optional<Gradients> gradients_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Balance> balance_;
  std::optional<Pipeline> pipeline_;
  std::vector<MicroBatch> micro_batches_;  // this replica's, of the step
  double targets_ = 0, tokens_ = 0;        // that count, and all, in the global batch
};

// Of the whole model, with what train.freeze and train.lora make of it.
ModelSize trained_size(const config::Config& config);

}  // namespace pf
