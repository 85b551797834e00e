// How weights change, and which of them decay.
#pragma once

#include "core/parameter.h"
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

// weight_decay, or 0 for a role that does not decay.
double decay_of(const Parameter& w, const config::Optimizer& config);

}  // namespace pf
