// How weights change, and which of them decay.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/parameter.h"
#include "models/layer.h"
#include "optim/optimizer.pb.h"
#include "optim/state_store.h"
#include "parallel/gradients.h"

namespace pf {

// The one virtual seam to how weights change.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Changes the parts of parameters that this rank owns by their gradients times `gradient_scale`,
  // and brings the packs that are made of them up to date.
  virtual void step(double lr, double gradient_scale) = 0;
  virtual std::int64_t steps_taken() const = 0;

  // All that it keeps between steps, in an order of its own: tensors [elements of the part] or like
  // it, of one kind ("first_moment") for each parameter once.
  using VisitState =
      std::function<void(const char* kind, const Part& part, const StoredState& state)>;
  virtual void visit_states(const VisitState& visit) const = 0;
  // The states were replaced by those after so many steps.
  virtual void restored(std::int64_t steps_taken) = 0;
};

using Visit = std::function<void(const Visitor&)>;

// The optimizer of config.kind for `parts`, those of Gradients, which are valid as long as it is;
// with offload, its states are in memory a pack's or a parameter's at a time. `visit` shows the
// packs that may be made of them. Mesh and parameters must outlive it.
std::unique_ptr<Optimizer> make_optimizer(const config::Optimizer& config, const Mesh& mesh,
                                          const std::vector<Part>& parts, const Visit& visit);

// All trainable parameters, whole.
std::vector<Part> whole_parts(const Visit& visit);

// weight_decay, or 0 for a role that does not decay.
double decay_of(const Parameter& w, const config::Optimizer& config);

// Whether the optimizer works on whole matrices of w: Sharing::keeps_matrices.
bool needs_matrices(const Parameter& w, const config::Optimizer& config);

}  // namespace pf
