#include "optim/sgd.h"

namespace pf {

Tensor with_momentum(const Tensor& velocity, const Tensor& gradient, double gradient_scale,
                     double momentum, bool nesterov) {
  Tensor u = Tensor::like(gradient);
  backend(u).scale(u, gradient, gradient_scale);
  if (!velocity) return u;
  const Tensor terms[] = {velocity, u};
  backend(u).scale(velocity, velocity, momentum);
  backend(u).add(velocity, terms);
  if (!nesterov) {
    backend(u).copy(u, velocity);
    return u;
  }
  const Tensor ahead = Tensor::like(u);
  const Tensor sum[] = {u, ahead};
  backend(u).scale(ahead, velocity, momentum);
  backend(u).add(u, sum);
  return u;
}

void change(const Tensor& w, double keep, const Tensor& u, double factor) {
  const Tensor terms[] = {w, u};
  backend(w).scale(u, u, factor);
  backend(w).scale(w, w, keep);
  backend(w).add(w, terms);
}

Sgd::Sgd(const config::Optimizer& c, const std::vector<Part>& parts)
    : momentum_(c.momentum()), nesterov_(c.nesterov()), store_(c.offload()) {
  for (const Part& part : parts) {
    const Tensor value = part.value();
    const StoredState velocity =
        momentum_ > 0 ? store_.zeros({part.size()}, value.dtype(), value.device()) : StoredState();
    owned_.push_back({part, decay_of(*part.parameter, c), velocity});
  }
}

void Sgd::visit_states(const VisitState& visit) const {
  if (momentum_ == 0) return;
  for (const Owned& owned : owned_) visit("velocity", owned.part, owned.velocity);
}

void Sgd::step(double lr, double gradient_scale) {
  ++steps_;
  for (const Owned& owned : owned_) {
    Parameter& w = *owned.part.parameter;
    const Tensor velocity = owned.velocity.load();
    const Tensor u =
        with_momentum(velocity, owned.part.gradient(), gradient_scale, momentum_, nesterov_);
    owned.velocity.save(velocity);
    change(owned.part.value(), 1 - lr * owned.decay, u, -lr);
    w.changed();
  }
}

}  // namespace pf
