#include "models/stage.h"

#include <utility>

#include "core/trace.h"

namespace pf {
namespace {

void enter(const Context& context, std::string layer) {
  context.mesh->communicator().enter({context.step, context.micro_batch, std::move(layer)});
}

bool wants_gradient(const Tensor& x) {
  return x && x.slot().index >= 0;
}

// The layer itself, if its backward reads weights. That of a layer without an input, the embedding,
// does not: nobody wants the gradient of what it looks up.
std::size_t read_by_backward(const Flight& flight, std::size_t layer) {
  return flight.steps[layer].x ? layer : Gradients::none;
}

}  // namespace

Tensor Stage::forward(Flight& flight, LayerRange range, const Tensor& input) {
  flight.steps.resize(layers_->size());
  Tensor x = input;
  for (std::size_t l = range.begin; l < range.end; ++l) {
    Layer& layer = *(*layers_)[l];
    Flight::Step& step = flight.steps[l];
    const Span span("layer", "forward of ", layer.name());
    enter(flight.context, "forward of " + layer.name());
    const Gradients::Use in_use = gradients_->use(l, l + 1 < range.end ? l + 1 : Gradients::none);
    // Where nothing before x is trained, its gradient is not asked for; what came from another
    // stage doesn't say.
    const bool is_from_elsewhere = l == range.begin && x;
    step.x = is_from_elsewhere || wants_gradient(x) ? step.tape.watch(x) : x;
    const Tape::Recording on(&step.tape);
    step.y = layer.forward(step.x, flight.context);
    x = step.y;
  }
  return x;
}

Tensor Stage::backward(Flight& flight, LayerRange range, Tensor dy, Weights weights) {
  for (std::size_t l = range.end; l-- > range.begin;) {
    Flight::Step& step = flight.steps[l];
    const Span span("layer", "backward of ", (*layers_)[l]->name());
    enter(flight.context, "backward of " + (*layers_)[l]->name());
    const Gradients::Use in_use =
        gradients_->use(read_by_backward(flight, l),
                        l > range.begin ? read_by_backward(flight, l - 1) : Gradients::none);
    std::vector<Tape::Work>* later = weights == Weights::later ? &step.weight_work : nullptr;
    if (dy && wants_gradient(step.y)) {
      step.tape.backward_from(step.y, std::move(dy), later);
    } else {
      step.tape.backward({}, {}, later);
    }
    dy = wants_gradient(step.x) ? step.tape.gradient(step.x) : Tensor();
    step = {.tape = {}, .x = {}, .y = {}, .weight_work = std::move(step.weight_work)};
    if (weights != Weights::later) gradients_->start(l, weights == Weights::last);
  }
  return dy;
}

void Stage::weight_gradients(Flight& flight, LayerRange range, bool is_last) {
  for (std::size_t l = range.end; l-- > range.begin;) {
    const Span span("layer", "weight gradients of ", (*layers_)[l]->name());
    enter(flight.context, "weight gradients of " + (*layers_)[l]->name());
    for (const Tape::Work& work : std::exchange(flight.steps[l].weight_work, {})) work();
    gradients_->start(l, is_last);
  }
}

Tensor Stage::evaluate(Context& context, LayerRange range, Tensor x) {
  const Tape::Recording pause(nullptr);
  for (std::size_t l = range.begin; l < range.end; ++l) {
    Layer& layer = *(*layers_)[l];
    const Span span("layer", "evaluation in ", layer.name());
    enter(context, "evaluation in " + layer.name());
    const Gradients::Use in_use = gradients_->use(l, l + 1 < range.end ? l + 1 : Gradients::none);
    x = layer.forward(x, context);
  }
  return x;
}

}  // namespace pf
