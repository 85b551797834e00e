// Runs a step's micro-batches through the stages of this rank, as a schedule says: the one place
// where forward and backward meet.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "models/balance.h"
#include "models/stage.h"
#include "models/transformer.h"
#include "parallel/schedule.h"

namespace pf {

// How a model's layers are divided: `counts` layers in each virtual stage (embedding and head are
// layers); none given: nearly even, the first and the last stage having one more where it does not
// divide. Throws Error with the sums where they do not fit.
std::vector<LayerRange> divide_layers(std::int64_t layers, int parts,
                                      const std::vector<std::int64_t>& counts = {});
// What this rank of the mesh holds of them, chunk after chunk.
std::vector<LayerRange> stages_of_rank(const Mesh& mesh, ScheduleKind kind, int chunks,
                                       const std::vector<LayerRange>& all);

// Of a step in which the choices of `together` micro-batches in a row are counted together: none
// goes backward on a rank before all of those went forward there. Throws Error where the kind
// can't.
Schedule schedule_of_step(ScheduleShape shape, std::int64_t together);

// What a step asks its caller for.
struct PipelineHooks {
  // Makes the context of this replica's n-th micro-batch of the step.
  std::function<void(Context&, std::int64_t)> prepare;
  // Another part of the work begins: "data", "forward", "backward", "balance", "pipeline" (a wait
  // for other stages).
  std::function<void(const char*)> enter = [](const char*) {};
  // A range of layers went forward.
  std::function<void(const Flight&, LayerRange)> after_forward = [](const Flight&, LayerRange) {};
};

class Pipeline {
 public:
  Pipeline(ScheduleKind kind, Transformer& model, Gradients& gradients, Balance& balance,
           const Mesh& mesh);

  // Forward and backward of this replica's `count` micro-batches; each layer's gradients start
  // their reduction when they are complete. Statistics in the order of micro-batches. All ranks
  // call it with the same count.
  std::vector<Statistics> run(std::int64_t count, const PipelineHooks& hooks);

  Transformer& model() const { return *model_; }

  // Without a tape; what the head gave (nothing, where it makes a loss or is on another rank).
  Tensor evaluate(Context& context);

 private:
  class Run;
  const Schedule& schedule_of(std::int64_t micro_batches);

  ScheduleKind kind_;
  Transformer* model_;
  Balance* balance_;
  const Mesh* mesh_;
  Stage stage_;
  Schedule schedule_;  // of the last run
  std::int64_t micro_batches_ = -1;
};

}  // namespace pf
