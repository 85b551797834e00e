#include "core/ops/linear.h"

#include <numeric>

#include "core/adapter.h"
#include "core/error.h"

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;

// For products with w of as many rows as x has.
Tensor workspace(const Tensor& x, const Packed& w) {
  return Tensor::empty({std::int64_t(backend(x).product_workspace(x.rows(), w))}, DType::u8,
                       x.device());
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

// dw (+)= dy' x for the parts that are trained: a product for each run of neighbours.
void add_gradients_of_parts(const Tensor& x, const Tensor& dy, const Pack& w,
                            const Counts& counts) {
  const Packed none{std::int64_t(counts.size()), x.columns(), 0, x.dtype(), {}, {}, {}};
  Packed run = none;
  std::vector<GradientTarget> targets;
  std::int64_t column = 0;
  const auto end_run = [&] {
    if (!targets.empty())
      backend(x).product_weight_gradient(targets, dy.columns(column - run.outputs, column), x, run,
                                         counts, workspace(x, run));
    targets.clear();
    run = none;
  };
  for (Parameter* part : w.parts()) {
    const std::int64_t outputs = part->shape()[-2];
    if (part->is_trainable()) {
      targets.push_back(part->gradient_target());
      run.parts.push_back(part->value());
      run.outputs += outputs;
    } else {
      end_run();
    }
    column += outputs;
  }
  end_run();
}

// With u = scale x A' and t = scale dy B, which are as narrow as the rank: dB (+)= dy' u and
// dA (+)= t' x. The A of all parts are one product.
void add_gradients_of_adapters(const Tensor& x, const Tensor& dy, const Pack& w,
                               const Counts& counts) {
  Backend& on = backend(x);
  std::vector<Parameter*> all_a;
  for (const Parameter* part : w.parts())
    if (part->adapter() != nullptr) all_a.push_back(&part->adapter()->a);
  if (all_a.empty()) return;
  Pack down(w.name() + ".lora.a", all_a);
  const Packed& a = down.packed(x.dtype());
  const Tensor all_u = Tensor::empty({x.rows(), a.outputs}, x.dtype(), x.device());
  const Tensor all_t = Tensor::like(all_u);
  on.product(all_u, x, a, counts, workspace(x, a));
  std::vector<GradientTarget> targets;
  std::int64_t column = 0, narrow_column = 0;
  for (const Parameter* part : w.parts()) {
    const std::int64_t end = column + part->shape()[-2];
    const Tensor dy_of = dy.columns(std::exchange(column, end), end);
    if (part->adapter() == nullptr) continue;
    Adapter& adapter = *part->adapter();
    Pack up(adapter.b.name(), {&adapter.b});
    const Packed& b = up.packed(x.dtype());
    const Tensor u = all_u.columns(narrow_column, narrow_column + b.inputs);
    const Tensor t = all_t.columns(narrow_column, narrow_column + b.inputs);
    narrow_column += b.inputs;
    on.scale(u, u, adapter.scale);
    on.product_input_gradient(t, dy_of, b, counts, workspace(x, b));
    on.scale(t, t, adapter.scale);
    const GradientTarget of_b[] = {adapter.b.gradient_target()};
    on.product_weight_gradient(of_b, dy_of, u, b, counts, workspace(x, b));
    targets.push_back(adapter.a.gradient_target());
  }
  on.product_weight_gradient(targets, all_t, x, a, counts, workspace(x, a));
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
  backend(x).product(y, x, packed, counts, workspace(x, packed));
  return Tape::record(
      columns_of(y, w, labels), {x}, w.is_trainable(),
      [x, &w, counts, is_wanted = x.slot().index >= 0](std::span<const Tensor> dys) {
        const Packed& now = borrow(w, x.dtype()).packed;
        const Tensor dy = side_by_side(dys, now.outputs);
        if (w.is_trainable())
          Tape::weight_work([x, dy, &w, counts] { add_weight_gradients(x, dy, w, counts); });
        if (!is_wanted) return std::vector<Tensor>(1);
        const Tensor dx = Tensor::gradient_like(x);
        backend(x).product_input_gradient(dx, dy, now, counts, workspace(x, now));
        return std::vector<Tensor>{dx};
      });
}

}  // namespace

std::vector<Tensor> linear(const Tensor& x, Pack& w) {
  return product("linear", x, w, {x.rows()});
}

void add_weight_gradients(const Tensor& x, const Tensor& dy, Pack& w,
                          const std::vector<std::int64_t>& counts) {
  add_gradients_of_parts(x, dy, w, counts);
  add_gradients_of_adapters(x, dy, w, counts);
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
