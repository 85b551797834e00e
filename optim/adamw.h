// AdamW with masters in the accumulation type.
#pragma once

#include <vector>

#include "optim/optimizer.h"

namespace pf {

// Loshchilov and Hutter 2019, algorithm 2: the decay is beside the gradient and scaled by lr alone.
// Moments, like the values, are of the accumulation type, and of this rank's parts only. Where it
// owns all parts of a pack, a value, its moments and its blocked copies are written in one pass.
class AdamW : public Optimizer {
 public:
  AdamW(const config::Optimizer& config, const std::vector<Part>& parts, const Visit& visit);
  AdamW(const config::Optimizer& config, const Visit& visit)
      : AdamW(config, whole_parts(visit), visit) {}
  void step(double lr, double gradient_scale) override;
  std::int64_t steps_taken() const override { return steps_; }
  void visit_states(const VisitState& visit) const override;
  void restored(std::int64_t steps_taken) override { steps_ = steps_taken; }

 private:
  // What one pass changes: the parts of a pack, or one part alone.
  struct Group {
    Pack* pack = nullptr;
    double decay = 0;
    std::vector<Part> parts;
    std::vector<StoredState> first, second;
  };

  void add(Pack* pack, const std::vector<Part>& parts, double decay);

  double beta1_, beta2_, eps_;
  std::int64_t steps_ = 0;
  StateStore store_;
  std::vector<Group> groups_;
};

}  // namespace pf
