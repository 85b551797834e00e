// A small model on one rank of a mesh: steps over given samples, and all that they give.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/balance.h"
#include "models/metrics.h"
#include "models/pipeline.h"
#include "models/transformer.h"

namespace pf {

using Numbers = std::vector<double>;

// A global batch: `count` sequences of `length` tokens.
struct Samples {
  std::int64_t count = 0, length = 0;
  std::vector<std::int32_t> ids, targets;
  Numbers mask;                           // 1 where the target counts
  Numbers filled = {};                    // 1 where there is a token; empty: as mask
  std::vector<std::int64_t> starts = {};  // tokens at which a document begins, ascending

  const Numbers& present() const { return filled.empty() ? mask : filled; }
  double targets_that_count() const;
  double tokens() const;  // present
};

// Of random tokens. The numbers of valid targets of one sequence, the next, ... are: about two
// thirds, one, none, all, and so on; no two replicas have equal work. Neighbours differ: where a
// document begins with the same token twice, attention makes the same of both, and rounding would
// decide which of them a capacity keeps.
Samples uneven_samples(std::int64_t count, std::int64_t length, std::int64_t vocabulary,
                       std::uint64_t seed = 1);
// The same with every target counting.
Samples even_samples(std::int64_t count, std::int64_t length, std::int64_t vocabulary);

// Two layers, four experts of which a token sees two, and auxiliary losses as large as the loss.
config::Model small_moe(config::Balance::Kind kind = config::Balance::micro);

// Matrices whose names end so get adapters, and nothing else is trained.
struct Adapted {
  std::vector<std::string> names = {};
  std::int64_t rank = 2;
  double scale = 1.5;
  double b_std = 0;  // B starts as zeros if this is 0
};

struct Recipe {
  config::Model model = small_moe();
  DType type = DType::f64;
  std::int64_t micro_batch = 1;  // sequences; the last of a step may have fewer
  std::int64_t group = 1;        // micro-batches whose choices are counted together
  std::int64_t head_chunk = 1024;
  CpMethod cp_method = CpMethod::all_gather;
  Dispatcher dispatcher = Dispatcher::all_to_all;
  Recompute recompute = {};
  ScheduleKind schedule = ScheduleKind::one_f_one_b;
  int chunks = 1;                               // stages on each rank
  std::vector<std::int64_t> stage_layers = {};  // see divide_layers()
  std::uint64_t seed = 1;
  std::vector<std::string> frozen = {};  // parameters
  Sharing sharing = {};
  Adapted adapted = {};
  bool is_nudged = false;  // each weight begins with another last bit; in f64
};

// What a step gives, the same on every rank.
struct StepOutcome {
  double loss = 0, balance_loss = 0, z_loss = 0, norm = 0;
  std::vector<Numbers> expert_counts;        // by MoE layer
  std::map<std::string, Numbers> gradients;  // by parameter: see SmallModel::weights()

  double sum() const { return loss + balance_loss + z_loss; }
  friend bool operator==(const StepOutcome&, const StepOutcome&) = default;
};

// One rank's part of a model in training.
class SmallModel {
 public:
  SmallModel(const Recipe& recipe, const Mesh& mesh, std::int64_t length);

  // Forward and backward over the global batch, of which this rank runs every dp-th micro-batch.
  StepOutcome step(const Samples& samples, std::int64_t step = 0);
  // Weights go down the gradients of the last step.
  void descend(double lr);

  Transformer& transformer() { return transformer_; }
  Gradients& gradients() { return *gradients_; }
  Pipeline& pipeline() { return *pipeline_; }
  Parameter& parameter(const std::string& name);
  // Whole. Of several stages, on the first rank of each alone (rank 0 among them), others have
  // none; all ranks call.
  std::map<std::string, Numbers> weights();
  // "f64 [10, 8] ..." of the outputs of all layers, of each of the last step's micro-batches.
  const std::vector<std::string>& outputs() const { return outputs_; }

 private:
  void scatter_b(Layer& layer);
  void nudge(Layer& layer);
  Batch batch_of(const Samples& samples, std::int64_t first, std::int64_t step) const;
  void prepare(Context& context, const Samples& samples, std::int64_t micro_batch,
               std::int64_t step);
  std::vector<Statistics> run_micro_batches(const Samples& samples, std::int64_t step);
  // Whole, by name, whichever stage holds it, where weights() says. `is_cut`: of a parameter that
  // two stages hold, each may have a part, and -infinity for the rest.
  std::map<std::string, Numbers> collect(const std::function<Tensor(Parameter&)>& of, bool is_cut);
  Tensor summed_gradient(Parameter& w) const;

  Recipe recipe_;
  const Mesh* mesh_;
  Transformer transformer_;
  std::optional<Gradients> gradients_;
  Balance balance_;
  std::optional<Pipeline> pipeline_;
  std::vector<std::string> outputs_;
};

// The whole tensor of which x is what this rank holds of it, cut like w: the same on every rank of
// this one's stage. All of these call. Throws Error where ranks that should hold the same hold
// something else.
Numbers whole(const Tensor& x, const Parameter& w, const Mesh& mesh);

}  // namespace pf
