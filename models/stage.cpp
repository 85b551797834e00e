#include "models/stage.h"

#include "core/trace.h"

namespace pf {
namespace {

void enter(const Context& context, std::string layer) {
  context.mesh->communicator().enter({context.step, context.micro_batch, std::move(layer)});
}

bool wants_gradient(const Tensor& x) {
  return x && x.slot().index >= 0;
}

}  // namespace

void Stage::forward(Flight& flight) {
  flight.steps.resize(layers_->size());
  Tensor x;
  for (std::size_t l = 0; l < layers_->size(); ++l) {
    Layer& layer = *(*layers_)[l];
    Flight::Step& step = flight.steps[l];
    const Span span("layer", "forward of ", layer.name());
    enter(flight.context, "forward of " + layer.name());
    const Gradients::Use weights = gradients_->use(l, l + 1);
    // Where nothing before x is trained, its gradient is not asked for.
    step.x = wants_gradient(x) ? step.tape.watch(x) : x;
    const Tape::Recording on(&step.tape);
    step.y = layer.forward(step.x, flight.context);
    x = step.y;
  }
}

void Stage::backward(Flight& flight, bool is_last) {
  Tensor dy;
  for (std::size_t l = layers_->size(); l-- > 0;) {
    Flight::Step& step = flight.steps[l];
    const Span span("layer", "backward of ", (*layers_)[l]->name());
    enter(flight.context, "backward of " + (*layers_)[l]->name());
    const Gradients::Use weights = gradients_->use(l, l - 1);
    if (dy) {
      const Tensor ys[] = {step.y}, dys[] = {dy};
      step.tape.backward(ys, dys);
    } else {
      step.tape.backward();
    }
    dy = wants_gradient(step.x) ? step.tape.gradient(step.x) : Tensor();
    step = {};
    gradients_->start(l, is_last);
  }
}

Tensor Stage::evaluate(Context& context) {
  const Tape::Recording pause(nullptr);
  Tensor x;
  for (std::size_t l = 0; l < layers_->size(); ++l) {
    Layer& layer = *(*layers_)[l];
    const Span span("layer", "evaluation in ", layer.name());
    enter(context, "evaluation in " + layer.name());
    const Gradients::Use weights = gradients_->use(l, l + 1);
    x = layer.forward(x, context);
  }
  return x;
}

}  // namespace pf
