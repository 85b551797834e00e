#include "core/adapter.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace pf {
namespace {

Label with_whole(Label w, Spread cut) {
  std::ranges::replace(w.on, cut, Spread::replicated);
  return w;
}

// With `rank` in place of the outputs (dim -2) or of the inputs (dim -1).
Shape narrowed(Shape shape, int dim, std::int64_t rank) {
  shape.set(dim, rank);
  return shape;
}

Block narrowed(Block block, int dim, std::int64_t rank) {
  const int from_first = block.extents.dims() + dim;
  block.begin[std::size_t(from_first)] = 0;
  block.extents.set(dim, rank);
  return block;
}

}  // namespace

Label label_of_a(const Label& w) {
  return with_whole(w, Spread::rows);
}

Label label_of_b(const Label& w) {
  return with_whole(w, Spread::columns);
}

Adapter::Adapter(const Parameter& w, std::int64_t rank, double factor)
    : a(w.name() + ".lora.a", narrowed(w.whole(), -2, rank), narrowed(w.block(), -2, rank),
        label_of_a(w.label()), Init::normal, 1 / std::sqrt(double(w.whole()[-1])), w.role()),
      b(w.name() + ".lora.b", narrowed(w.whole(), -1, rank), narrowed(w.block(), -1, rank),
        label_of_b(w.label()), Init::zeros, 0, w.role()),
      scale(factor) {}

Tensor merged(const Parameter& w) {
  Adapter& adapter = *w.adapter();
  const Tensor& b = adapter.b.value();
  require(bool(w.value()) && bool(b), "parameter ", w.name(), ": merged before initialise()");
  Device& device = b.device();
  Backend& on = device.backend();
  Pack factor(adapter.a.name(), {&adapter.a});
  const Packed& a = factor.packed(b.dtype());
  const std::int64_t outputs = w.shape()[-2], rows = a.groups * outputs;
  const std::vector<std::int64_t> counts(std::size_t(a.groups), outputs);

  const Tensor scaled = Tensor::empty({rows, a.outputs}, b.dtype(), device);
  on.scale(scaled, b.reshaped(scaled.shape()), adapter.scale);
  const Tensor y = Tensor::empty({rows, a.inputs}, b.dtype(), device);
  const auto bytes = std::int64_t(on.product_workspace(rows, a));
  on.product_input_gradient(y, scaled, a, counts, Tensor::empty({bytes}, DType::u8, device));
  const Tensor terms[] = {w.value().reshaped(y.shape()), y};
  on.add(y, terms);
  return y.reshaped(w.shape()).labelled(w.label());
}

}  // namespace pf
