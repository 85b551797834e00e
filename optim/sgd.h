// Stochastic gradient descent with momentum.
#pragma once

#include <vector>

#include "optim/optimizer.h"

namespace pf {

// v <- momentum v + g, then w <- w (1 - lr decay) - lr u, where u = v, or g + momentum v with
// nesterov: Sutskever et al. 2013, equations 1 to 4, with lr outside of v. The decay is beside the
// gradient (Loshchilov and Hutter 2019, algorithm 1).
class Sgd : public Optimizer {
 public:
  Sgd(const config::Optimizer& config, const std::vector<Part>& parts);
  void step(double lr, double gradient_scale) override;
  std::int64_t steps_taken() const override { return steps_; }
  void visit_states(const VisitState& visit) const override;
  void restored(std::int64_t steps_taken) override { steps_ = steps_taken; }

 private:
  struct Owned {
    Part part;
    double decay = 0;
    StoredState velocity;  // [elements of the part]; empty without momentum
  };

  double momentum_;
  bool nesterov_;
  std::int64_t steps_ = 0;
  StateStore store_;
  std::vector<Owned> owned_;
};

// u of the step above, [elements]; changes `velocity`, which may be empty.
Tensor with_momentum(const Tensor& velocity, const Tensor& gradient, double gradient_scale,
                     double momentum, bool nesterov);

// w <- keep w + factor u.
void change(const Tensor& w, double keep, const Tensor& u, double factor);

}  // namespace pf
