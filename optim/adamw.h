// AdamW with masters in the accumulation type.
#pragma once

#include <map>
#include <vector>

#include "core/parameter.h"
#include "models/layer.h"
#include "optim/optimizer.pb.h"

namespace pf {

// The one virtual seam to how weights change.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Changes every trainable parameter by its gradient times `gradient_scale`, and brings the packs
  // that are made of them up to date.
  virtual void step(double lr, double gradient_scale) = 0;
  virtual std::int64_t steps_taken() const = 0;
};

// Loshchilov and Hutter 2019, algorithm 2: the decay is beside the gradient and scaled by lr alone.
// Matrices decay, norms do not. Moments, like the values, are of the accumulation type; a value,
// its moments and its blocked copies are written in one pass.
class AdamW : public Optimizer {
 public:
  AdamW(const config::Optimizer& config, const std::function<void(const Visitor&)>& visit);
  void step(double lr, double gradient_scale) override;
  std::int64_t steps_taken() const override { return steps_; }

 private:
  // What one pass changes: the parts of a pack, or one parameter alone.
  struct Group {
    Pack* pack = nullptr;
    std::vector<Parameter*> parameters;
    std::vector<Tensor> first, second;
  };

  double beta1_, beta2_, eps_, decay_;
  std::int64_t steps_ = 0;
  std::vector<Group> groups_;
};

}  // namespace pf
