#include "core/ops/elementwise.h"

#include <algorithm>

#include "core/backend.h"
#include "core/error.h"

namespace pf {
namespace {

Tensor sum_of(std::span<const Tensor> xs, const Label& label) {
  for (const Tensor& x : xs)
    require(x.shape() == xs[0].shape() && x.dtype() == xs[0].dtype(), "add: ", xs[0].text(),
            " and ", x.text());
  const Tensor y = Tensor::empty(xs[0].shape(), xs[0].dtype(), xs[0].device(), label, "add");
  backend(y).add(y, xs);
  std::vector<Label> labels;
  labels.reserve(xs.size());
  for (const Tensor& x : xs) labels.push_back(gradient_of(x.label()));
  return Tape::record(y, {xs.begin(), xs.end()}, false, [labels](const Tensor& dy) {
    std::vector<Tensor> dxs;
    dxs.reserve(labels.size());
    for (const Label& of_x : labels) dxs.push_back(dy.labelled(of_x));
    return dxs;
  });
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  const Tensor xs[] = {a, b};
  return sum_of(xs, meet("add", Meeting::sum, {a.label(), b.label()}));
}

Tensor add(const Tensor& a, const Tensor& b, const Tensor& c) {
  const Tensor xs[] = {a, b, c};
  return sum_of(xs, meet("add", Meeting::sum, {a.label(), b.label(), c.label()}));
}

Tensor scale(const Tensor& x, double factor) {
  const Tensor y = Tensor::like(x);
  backend(x).scale(y, x, factor);
  return Tape::record(y, {x}, false, [factor](const Tensor& dy) {
    Tensor dx = Tensor::like(dy);
    backend(dy).scale(dx, dy, factor);
    return dx;
  });
}

Tensor cast(const Tensor& x, DType type) {
  require(is_floating(x.dtype()) && is_floating(type), "cast: ", x.text(), " to ", name(type));
  if (x.dtype() == type) return x;
  const Tensor y = Tensor::empty(x.shape(), type, x.device(), x.label());
  backend(x).copy(y, x);
  return Tape::record(y, {x}, false, [from = x.dtype()](const Tensor& dy) {
    Tensor dx = Tensor::empty(dy.shape(), from, dy.device(), dy.label());
    backend(dy).copy(dx, dy);
    return dx;
  });
}

std::vector<Tensor> split_rows(const Tensor& x, std::int64_t rows) {
  require(rows > 0, "split_rows: runs of ", rows, " rows");
  std::vector<Tensor> parts;
  for (std::int64_t begin = 0; begin < x.rows(); begin += rows)
    parts.push_back(x.rows(begin, std::min(x.rows(), begin + rows)));
  return Tape::record(parts, {x}, false, [x](std::span<const Tensor> dys) {
    const Tensor dx = Tensor::gradient_like(x);
    std::int64_t begin = 0;
    for (const Tensor& dy : dys) {
      backend(dx).copy(dx.rows(begin, begin + dy.rows()), dy);
      begin += dy.rows();
    }
    return std::vector<Tensor>{dx};
  });
}

Tensor swiglu(const Tensor& gate, const Tensor& up, const Tensor& row) {
  require(gate.shape() == up.shape() && gate.dtype() == up.dtype(), "swiglu: gate is ", gate.text(),
          ", up ", up.text());
  Label label = meet("swiglu", Meeting::any, {gate.label(), up.label()});
  if (row) {
    require(row.size() == gate.rows() && row.dtype() == accumulation(gate.dtype()),
            "swiglu: row is ", row.text(), " for gate ", gate.text());
    label = meet("swiglu", Meeting::product, {label, row.label()});
  }
  const Tensor y = Tensor::empty(gate.shape(), gate.dtype(), gate.device(), label);
  backend(y).swiglu(y, gate, up, row);
  return Tape::record(y, {gate, up, row}, false, [gate, up, row](const Tensor& dy) {
    const auto [dgate, dup] = gradients_of_gate_up(gate, up);
    const Tensor drow = row ? Tensor::gradient_like(row) : Tensor();
    backend(dy).swiglu_backward(dgate, dup, drow, {}, dy, gate, up, row);
    return std::vector<Tensor>{dgate, dup, drow};
  });
}

GateUp gradients_of_gate_up(const Tensor& gate, const Tensor& up) {
  const std::int64_t ffn = gate.columns();
  Tensor both;
  if (gate.sharers() == 2 && gate.pitch() == 2 * ffn) {
    both = gate.widened(2 * ffn);
    if (both && !up.is_same_view(both.columns(ffn, 2 * ffn))) both = {};
  }
  if (!both) both = Tensor::empty({gate.rows(), 2 * ffn}, gate.dtype(), gate.device());
  return {both.columns(0, ffn).labelled(gradient_of(gate.label())),
          both.columns(ffn, 2 * ffn).labelled(gradient_of(up.label()))};
}

Tensor activation(const Tensor& x, ActivationKind kind) {
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(),
                                 meet("activation", Meeting::any, {x.label()}));
  backend(x).activation(y, x, kind);
  return Tape::record(y, {x}, false, [x, kind](const Tensor& dy) {
    Tensor dx = Tensor::gradient_like(x);
    backend(x).activation_backward(dx, dy, x, kind);
    return dx;
  });
}

Tensor dropout(const Tensor& x, double p, const Random& random, const Tensor& token,
               std::int64_t width, std::int64_t first_column) {
  require(p >= 0 && p < 1, "dropout: p is ", p, "; 0 <= p < 1 is wanted");
  require(token.dtype() == DType::i64 && token.size() == x.rows(), "dropout: token is ",
          token.text(), " for x ", x.text());
  if (p == 0) return x;
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(),
                                 meet("dropout", Meeting::product, {x.label(), token.label()}));
  backend(x).dropout(y, x, p, random, token, width, first_column);
  return Tape::record(y, {x}, false, [=, label = gradient_of(x.label())](const Tensor& dy) {
    Tensor dx = Tensor::like(dy).labelled(label);
    backend(dy).dropout(dx, dy, p, random, token, width, first_column);
    return dx;
  });
}

}  // namespace pf
