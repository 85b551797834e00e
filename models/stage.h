// What runs layers: forward and backward in plain loops, a tape for each layer and micro-batch in
// flight.
#pragma once

#include <vector>

#include "core/tape.h"
#include "models/layer.h"
#include "parallel/gradients.h"

namespace pf {

// A micro-batch between its forward and its backward. Stays where it is: layers keep references.
struct Flight {
  Context context;
  struct Step {
    Tape tape;
    Tensor x, y;
  };
  std::vector<Step> steps;  // by layer
};

// The layers that one rank runs.
class Stage {
 public:
  // Gradients are reduced through `gradients`, whose layer i is layers[i].
  Stage(Layers& layers, Gradients& gradients) : layers_(&layers), gradients_(&gradients) {}

  // Saves what backward needs in flight.steps.
  void forward(Flight& flight);
  // Undoes it. On the last micro-batch of a step each layer's gradients start their reduction as
  // soon as they are complete.
  void backward(Flight& flight, bool is_last);

  // Without a tape; what the last layer gave (nothing, where it makes a loss).
  Tensor evaluate(Context& context);

 private:
  Layers* layers_;
  Gradients* gradients_;
};

}  // namespace pf
