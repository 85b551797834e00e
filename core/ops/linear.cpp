#include "core/ops/linear.h"

#include <memory>
#include <numeric>

#include "core/adapter.h"
#include "core/error.h"
#include "core/ops/elementwise.h"

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;

// For products with w of as many rows as x has.
Tensor workspace(const Tensor& x, const Packed& w) {
  return Tensor::empty({std::int64_t(backend(x).product_workspace(x.rows(), w))}, DType::u8,
                       x.device());
}

// One of rows of x with w, or the gradient of either: 2 for each element of w and row.
void count_product(const Tensor& x, const Packed& w) {
  x.device().count_flops(2 * double(x.rows()) * double(w.inputs * w.outputs));
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

// What the product of a weight gradient reads of a weight: no values.
Packed outline(const Tensor& x, std::int64_t outputs, const Counts& counts) {
  return {std::int64_t(counts.size()), x.columns(), outputs, x.dtype(), {}, {}, {}};
}

// dw (+)= dy' x for the parts that are trained: a product for each run of neighbours.
void add_gradients_of_parts(const Tensor& x, const Tensor& dy, const Pack& w,
                            const Counts& counts) {
  std::vector<GradientTarget> targets;
  std::int64_t begin = 0, column = 0;  // of the run, and its end
  const auto end_run = [&] {
    const Packed run = outline(x, column - begin, counts);
    if (!targets.empty()) {
      count_product(x, run);
      backend(x).product_weight_gradient(targets, dy.columns(begin, column), x, run, counts,
                                         workspace(x, run));
    }
    targets.clear();
  };
  for (Parameter* part : w.parts()) {
    if (part->is_trainable()) {
      if (targets.empty()) begin = column;
      targets.push_back(part->gradient_target());
    } else {
      end_run();
    }
    column += part->shape()[-2];
  }
  end_run();
}

// With u = scale x A' and t = scale dy B, which are as narrow as the rank: dB (+)= dy' u and
// dA (+)= t' x. The A of all parts are one product. A and B are read here, not by the work.
Tape::Work work_of_adapters(const Tensor& x, const Tensor& dy, const Pack& w,
                            const Counts& counts) {
  Backend& on = backend(x);
  std::vector<Parameter*> all_a;
  for (const Parameter* part : w.parts())
    if (part->adapter() != nullptr) all_a.push_back(&part->adapter()->a);
  if (all_a.empty()) return [] {};
  Pack down(w.name() + ".lora.a", all_a);
  const Packed& a = down.packed(x.dtype());
  const Tensor all_u = Tensor::empty({x.rows(), a.outputs}, x.dtype(), x.device());
  const Tensor all_t = Tensor::like(all_u);
  count_product(x, a);
  on.product(all_u, x, a, counts, workspace(x, a));
  struct OfB {
    Adapter* adapter;
    Tensor dy, u;
  };
  std::vector<OfB> factors;
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
    count_product(x, b);
    on.product_input_gradient(t, dy_of, b, counts, workspace(x, b));
    on.scale(t, t, adapter.scale);
    factors.push_back({&adapter, dy_of, u});
  }
  return [x, all_t, factors, counts] {
    std::vector<GradientTarget> of_a;
    for (const OfB& factor : factors) {
      const GradientTarget of_b[] = {factor.adapter->b.gradient_target()};
      const Packed b = outline(factor.u, factor.dy.columns(), counts);
      count_product(x, b);
      backend(x).product_weight_gradient(of_b, factor.dy, factor.u, b, counts, workspace(x, b));
      of_a.push_back(factor.adapter->a.gradient_target());
    }
    const Packed all = outline(x, all_t.columns(), counts);
    count_product(x, all);
    backend(x).product_weight_gradient(of_a, all_t, x, all, counts, workspace(x, all));
  };
}

Tape::Work weight_work(const Tensor& x, const Tensor& dy, Pack& w, const Counts& counts) {
  const auto of_adapters = std::make_shared<const Tape::Work>(work_of_adapters(x, dy, w, counts));
  return [x, dy, &w, counts, of_adapters] {
    add_gradients_of_parts(x, dy, w, counts);
    (*of_adapters)();
  };
}

struct Product {
  Tensor y;                   // [rows, outputs of all parts]
  std::vector<Label> labels;  // of the parts
};

Product product_of(const char* op, const Tensor& x, Pack& w, const Counts& counts) {
  const Parameter& first = *w.parts()[0];
  require(is_floating(x.dtype()) && first.type() == accumulation(x.dtype()), op, ": x is ",
          x.text(), ", ", first.name(), " is ", name(first.type()), ' ', first.shape());
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
  const Tensor y = Tensor::empty({x.rows(), packed.outputs}, x.dtype(), x.device(), labels[0], op);
  count_product(x, packed);
  backend(x).product(y, x, packed, counts, workspace(x, packed));
  return {y, labels};
}

// The gradient of x [rows, inputs], whose own label is `label`.
Tensor input_gradient(const Tensor& dy, Pack& w, const Counts& counts, const Label& label) {
  const Packed& packed = borrow(w, dy.dtype()).packed;
  Tensor dx =
      Tensor::empty({dy.rows(), packed.inputs}, dy.dtype(), dy.device(), gradient_of(label));
  count_product(dx, packed);
  backend(dy).product_input_gradient(dx, dy, packed, counts, workspace(dy, packed));
  return dx;
}

std::vector<Tensor> product(const char* op, const Tensor& x, Pack& w, const Counts& counts) {
  const Product made = product_of(op, x, w, counts);
  return Tape::record(
      columns_of(made.y, w, made.labels), {x}, w.is_trainable(),
      [x, &w, counts, is_wanted = x.slot().index >= 0](std::span<const Tensor> dys) {
        const Tensor dy = side_by_side(dys, borrow(w, x.dtype()).packed.outputs);
        if (w.is_trainable()) Tape::weight_work(weight_work(x, dy, w, counts));
        if (!is_wanted) return std::vector<Tensor>(1);
        return std::vector<Tensor>{input_gradient(dy, w, counts, x.label())};
      },
      op);
}

Tensor product_of_swiglu(const char* op, const Tensor& gate, const Tensor& up, const Tensor& row,
                         Pack& w, const Counts& counts) {
  require(w.parts().size() == 1, op, ": ", w.name(), " has ", w.parts().size(), " parts, not one");
  const auto activation = [&] {
    const Tape::Recording pause(nullptr);
    return swiglu(gate, up, row);
  };
  const Tensor a = activation();
  const Product made = product_of(op, a, w, counts);
  return Tape::record(
      made.y, {gate, up, row}, w.is_trainable(),
      [gate, up, row, &w, counts, label = a.label()](const Tensor& dy) {
        const Tensor da = input_gradient(dy, w, counts, label);
        const auto [dgate, dup] = gradients_of_gate_up(gate, up);
        const Tensor drow = row ? Tensor::gradient_like(row) : Tensor();
        backend(dy).swiglu_backward(dgate, dup, drow, da, da, gate, up, row);
        if (w.is_trainable()) Tape::weight_work(weight_work(da.labelled(label), dy, w, counts));
        return std::vector<Tensor>{dgate, dup, drow};
      },
      op);
}

}  // namespace

std::vector<Tensor> linear(const Tensor& x, Pack& w) {
  return product("linear", x, w, {x.rows()});
}

Tensor linear_of_swiglu(const Tensor& gate, const Tensor& up, const Tensor& row, Pack& w) {
  return product_of_swiglu("linear", gate, up, row, w, {gate.rows()});
}

void add_weight_gradients(const Tensor& x, const Tensor& dy, Pack& w,
                          const std::vector<std::int64_t>& counts) {
  const Tape::Work work = weight_work(x, dy, w, counts);
  work();
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

Tensor grouped_linear_of_swiglu(const ExpertRows& rows, const Tensor& gate, const Tensor& up,
                                Pack& w) {
  return product_of_swiglu("grouped_linear", gate, up, rows.weights, w, rows.counts);
}

}  // namespace pf
