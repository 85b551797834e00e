#include "core/ops/linear.h"

#include <numeric>

#include "core/error.h"

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;

Tensor workspace(std::size_t bytes, Device& device) {
  return Tensor::empty({std::int64_t(bytes)}, DType::u8, device);
}

// The columns of y that each part of w makes, with their labels.
std::vector<Tensor> columns_of(const Tensor& y, const Pack& w, std::span<const Label> labels) {
  std::vector<Tensor> parts;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::int64_t end = begin + w.parts()[i]->shape()[-2];
    parts.push_back(y.columns(begin, end).labelled(labels[i]));
    begin = end;
  }
  return parts;
}

// The gradients of the parts as one matrix: theirs, if they already lie side by side.
Tensor side_by_side(std::span<const Tensor> dys, std::int64_t outputs) {
  if (dys.size() == 1) return dys[0];
  const Tensor& first = dys[0];
  if (first.pitch() == outputs) {
    Tensor whole = first.widened(outputs);
    std::int64_t begin = 0;
    bool fits = bool(whole);
    for (const Tensor& dy : dys) {
      fits = fits && dy.is_same_view(whole.columns(begin, begin + dy.columns()));
      begin += dy.columns();
    }
    if (fits) return whole;
  }
  Tensor whole =
      Tensor::empty({first.rows(), outputs}, first.dtype(), first.device(), first.label());
  std::int64_t begin = 0;
  for (const Tensor& dy : dys) {
    backend(dy).copy(whole.columns(begin, begin + dy.columns()), dy);
    begin += dy.columns();
  }
  return whole;
}

std::vector<Tensor> product(const char* op, const Tensor& x, Pack& w, const Counts& counts) {
  const Tensor& value = w.parts()[0]->value();
  require(is_floating(x.dtype()) && value.dtype() == accumulation(x.dtype()), op, ": x is ",
          x.text(), ", ", w.parts()[0]->name(), " is ", value.text());
  const BorrowedPack weight = borrow(w, x.dtype());
  const Packed& packed = weight.packed;
  require(x.shape().dims() == 2 && x.columns() == packed.inputs, op, ": x is ", x.text(),
          ", which ", w.name(), " takes with ", packed.inputs, " columns");
  require(std::int64_t(counts.size()) == packed.groups, op, ": ", counts.size(), " counts, but ",
          w.name(), " has ", packed.groups, " experts");
  require(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}) == x.rows(), op,
          ": the counts do not add up to the ", x.rows(), " rows of x");
  std::vector<Label> labels;
  for (std::size_t i = 0; i < weight.labels.size(); ++i)
    labels.push_back(
        pf::linear(std::string(op) + " " + w.parts()[i]->name(), x.label(), weight.labels[i]));
  const Tensor y = Tensor::empty({x.rows(), packed.outputs}, x.dtype(), x.device(), labels[0]);
  backend(x).product(y, x, packed, counts,
                     workspace(backend(x).product_workspace(x.rows(), packed), x.device()));
  return Tape::record(
      columns_of(y, w, labels), {x}, w.is_trainable(),
      [x, &w, counts, is_wanted = x.slot().index >= 0](std::span<const Tensor> dys) {
        const Packed& now = borrow(w, x.dtype()).packed;
        const Tensor dy = side_by_side(dys, now.outputs);
        Device& device = x.device();
        if (w.is_trainable()) {
          Tape::weight_work([x, dy, &w, counts, &device] {
            const Packed& later = borrow(w, x.dtype()).packed;
            std::vector<GradientTarget> targets;
            for (Parameter* part : w.parts())
              targets.push_back(part->is_trainable() ? part->gradient_target()
                                                     : GradientTarget{Tensor::like(part->value())});
            backend(x).product_weight_gradient(
                targets, dy, x, later, counts,
                workspace(backend(x).product_workspace(x.rows(), later), device));
          });
        }
        if (!is_wanted) return std::vector<Tensor>(1);
        const Tensor dx = Tensor::gradient_like(x);
        backend(x).product_input_gradient(
            dx, dy, now, counts, workspace(backend(x).product_workspace(x.rows(), now), device));
        return std::vector<Tensor>{dx};
      });
}

}  // namespace

std::vector<Tensor> linear(const Tensor& x, Pack& w) {
  return product("linear", x, w, {x.rows()});
}

Tensor add_bias(const Tensor& x, Parameter& b) {
  const BorrowedValue bias = borrow(b);
  require(b.shape().dims() == 1 && b.size() == x.columns() &&
              bias.value.dtype() == accumulation(x.dtype()),
          "add_bias: x is ", x.text(), ", ", b.name(), " is ", bias.value.text());
  Label of_columns = bias.label;  // its rows are x's columns
  for (const Axis a : axes_of(of_columns.view))
    if (of_columns[a] == Spread::rows) of_columns = of_columns.with({a}, Spread::columns);
  const Tensor y =
      Tensor::empty(x.shape(), x.dtype(), x.device(),
                    meet("add_bias " + b.name(), Meeting::any, {x.label(), of_columns}));
  backend(x).add_row(y, x, bias.value);
  return Tape::record(
      y, {x}, b.is_trainable(), [&b, label = gradient_of(x.label())](const Tensor& dy) {
        if (b.is_trainable())
          Tape::weight_work([&b, dy] { backend(dy).add_row_backward(b.gradient_target(), dy); });
        return dy.labelled(label);
      });
}

std::vector<Tensor> grouped_linear(const ExpertRows& rows, Pack& w) {
  return product("grouped_linear", rows.x, w, rows.counts);
}

}  // namespace pf
