// What runs layers: forward and backward in plain loops, a tape for each layer and micro-batch in
// flight.
#pragma once

#include <vector>

#include "core/tape.h"
#include "models/layer.h"
#include "parallel/gradients.h"

namespace pf {

// A micro-batch between its first forward and its last backward. Stays where it is: layers keep
// references.
struct Flight {
  Context context;
  struct Step {
    Tape tape;
    Tensor x, y;
    std::vector<Tape::Work> weight_work;  // left for later
  };
  std::vector<Step> steps;  // by layer of this rank
};

// The layers that one rank runs, in consecutive ranges: one for each stage that it holds.
class Stage {
 public:
  // Gradients are reduced through `gradients`, whose layer i is layers[i].
  Stage(Layers& layers, Gradients& gradients) : layers_(&layers), gradients_(&gradients) {}

  // Of an input that comes from elsewhere a gradient will be asked for. Saves what backward needs
  // in flight.steps. Gives what the range's last layer gave: nothing, where it makes a loss.
  Tensor forward(Flight& flight, LayerRange range, const Tensor& x);

  enum class Weights : std::uint8_t {
    more,   // their gradients are made; later micro-batches add to them
    last,   // after this they are complete: each layer's start their reduction
    later,  // left for weight_gradients()
  };
  // Undoes it, from the gradient of what it gave; gives that of x.
  Tensor backward(Flight& flight, LayerRange range, Tensor dy, Weights weights);
  void weight_gradients(Flight& flight, LayerRange range, bool is_last);

  // Without a tape.
  Tensor evaluate(Context& context, LayerRange range, Tensor x);

 private:
  Layers* layers_;
  Gradients* gradients_;
};

}  // namespace pf
