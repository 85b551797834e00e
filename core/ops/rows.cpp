#include "core/ops/rows.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace pf {

Tensor embedding(const Tensor& ids, Parameter& w, DType type, std::int64_t offset) {
  require(ids.dtype() == DType::i32, "embedding ", w.name(), ": ids are ", ids.text(),
          "; i32 is wanted");
  const BorrowedValue weight = borrow(w);
  require(w.shape().dims() == 2 && weight.value.dtype() == accumulation(type), "embedding ",
          w.name(), ": ", weight.value.text(), " as ", name(type));
  const std::int64_t first = w.block().begin[0] - offset;
  const Tensor y = Tensor::empty({ids.size(), w.shape()[1]}, type, ids.device(),
                                 embedding("embedding " + w.name(), ids.label(), weight.label));
  backend(y).embedding(y, ids, weight.value, first);
  return Tape::record(y, {}, w.is_trainable(), [ids, &w, first](const Tensor& dy) {
    Tape::weight_work([ids, &w, first, dy] {
      backend(dy).embedding_backward(w.gradient_target(), ids, dy, first);
    });
    return std::vector<Tensor>{};
  });
}

namespace {

// `rows`: the label of x, or of what may be normalised in it.
Tensor rms_norm_of(const Tensor& x, Parameter& w, double eps, const Label& rows) {
  const BorrowedValue weight = borrow(w);
  require(weight.value.dtype() == accumulation(x.dtype()), "rms_norm: x is ", x.text(), ", ",
          w.name(), " is ", weight.value.text());
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(),
                                 meet("rms_norm", Meeting::any, {rows, weight.label}), "rms_norm");
  const Tensor scale = Tensor::empty({x.rows(), x.columns() / w.size()}, accumulation(x.dtype()),
                                     x.device(), constant(x.label()), "rms_norm");
  backend(x).rms_norm(y, scale, x, weight.value, eps);
  return Tape::record(y, {x}, w.is_trainable(), [x, scale, &w](const Tensor& dy) {
    const GradientTarget dx = Tape::gradient_target(x);
    const auto bytes = std::int64_t(backend(x).rms_norm_workspace(x, w.value()));
    const GradientTarget dw = w.is_trainable() ? w.gradient_target() : GradientTarget{};
    backend(x).rms_norm_backward(dx, dw, dy, x, scale, borrow(w).value,
                                 Tensor::empty({bytes}, DType::u8, x.device()));
    return dx.tensor;
  });
}

}  // namespace

Tensor rms_norm(const Tensor& x, Parameter& w, double eps) {
  require(w.shape().dims() == 1 && x.columns() == w.size(), "rms_norm: x is ", x.text(), ", ",
          w.name(), " is ", w.shape());
  return rms_norm_of(x, w, eps, row_wise("rms_norm", x.label()));
}

Tensor rms_norm_by_head(const Tensor& x, Parameter& w, double eps) {
  require(w.shape().dims() == 1 && x.columns() % w.size() == 0, "rms_norm_by_head: x is ", x.text(),
          ", ", w.name(), " is ", w.shape());
  return rms_norm_of(x, w, eps, x.label());
}

Tensor layer_norm(const Tensor& x, Parameter& w, Parameter& b, double eps) {
  const BorrowedValue weight = borrow(w), bias = borrow(b);
  require(w.size() == x.columns() && b.size() == x.columns() &&
              weight.value.dtype() == accumulation(x.dtype()),
          "layer_norm: x is ", x.text(), ", ", w.name(), " is ", weight.value.text(), ", ",
          b.name(), " is ", bias.value.text());
  const Tensor y =
      Tensor::empty(x.shape(), x.dtype(), x.device(),
                    meet("layer_norm", Meeting::any,
                         {row_wise("layer_norm", x.label()), weight.label, bias.label}));
  const Tensor statistics =
      Tensor::empty({x.rows(), 2}, accumulation(x.dtype()), x.device(), constant(x.label()));
  backend(x).layer_norm(y, statistics, x, weight.value, bias.value, eps);
  return Tape::record(
      y, {x}, w.is_trainable() || b.is_trainable(), [x, statistics, &w, &b](const Tensor& dy) {
        const GradientTarget dx = Tape::gradient_target(x);
        const auto bytes = std::int64_t(backend(x).layer_norm_workspace(x, w.value()));
        const GradientTarget dw = w.is_trainable() ? w.gradient_target() : GradientTarget{};
        const GradientTarget db = b.is_trainable() ? b.gradient_target() : GradientTarget{};
        backend(x).layer_norm_backward(dx, dw, db, dy, x, statistics, borrow(w).value,
                                       Tensor::empty({bytes}, DType::u8, x.device()));
        return dx.tensor;
      });
}

Tensor join_heads(const Tensor& a, const Tensor& b, std::int64_t heads, bool shares_b) {
  require(heads >= 1 && a.rows() == b.rows() && a.dtype() == b.dtype() &&
              a.columns() % heads == 0 && (shares_b || b.columns() % heads == 0),
          "join_heads: a is ", a.text(), ", b ", b.text(), " for ", heads, " heads");
  const std::int64_t rest = shares_b ? b.columns() : b.columns() / heads;
  const Tensor y = Tensor::empty({a.rows(), a.columns() + heads * rest}, a.dtype(), a.device(),
                                 meet("join_heads", Meeting::any, {a.label(), b.label()}));
  backend(y).join_heads(y, a, b, heads);
  return Tape::record(y, {a, b}, false, [a, b, heads](const Tensor& dy) {
    const Tensor da = Tensor::gradient_like(a), db = Tensor::gradient_like(b);
    backend(da).join_heads_backward(da, db, dy, heads);
    return std::vector<Tensor>{da, db};
  });
}

Tensor repeat_heads(const Tensor& x, std::int64_t heads, std::int64_t times) {
  require(heads >= 1 && times >= 1 && x.columns() % heads == 0, "repeat_heads: x is ", x.text(),
          " for ", heads, " heads, ", times, " times");
  if (times == 1) return x;
  const std::int64_t dim = x.columns() / heads;
  // Copies number `copy` of all heads.
  const auto each_head = [heads, times, dim](std::int64_t copy, auto f) {
    for (std::int64_t h = 0; h < heads; ++h) f(h * dim, (h * times + copy) * dim, dim);
  };
  const Tensor y = Tensor::empty({x.rows(), x.columns() * times}, x.dtype(), x.device(),
                                 meet("repeat_heads", Meeting::sum, {x.label()}));
  for (std::int64_t copy = 0; copy < times; ++copy)
    each_head(copy, [&](std::int64_t from, std::int64_t to, std::int64_t width) {
      backend(y).copy(y.columns(to, to + width), x.columns(from, from + width));
    });
  const auto undo = [shape = x.shape(), label = gradient_of(x.label()), times,
                     each_head](const Tensor& dy) {
    Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device(), label);
    std::vector<Tensor> copies;
    for (std::int64_t copy = 0; copy < times; ++copy) {
      copies.push_back(Tensor::like(dx));
      each_head(copy, [&](std::int64_t to, std::int64_t from, std::int64_t width) {
        backend(dx).copy(copies.back().columns(to, to + width), dy.columns(from, from + width));
      });
    }
    backend(dx).add(dx, copies);
    return dx;
  };
  return Tape::record(y, {x}, false, undo);
}

std::vector<double> rope_frequencies(std::int64_t head_dim, double base, const RopeScaling& scaling,
                                     std::int64_t positions) {
  require(head_dim % 2 == 0, "rope: head_dim is ", head_dim, "; an even number is wanted");
  using Kind = RopeScaling::Kind;
  const auto d = double(head_dim), original = double(scaling.original);
  if (scaling.kind == Kind::dynamic_ntk) {
    const double length = std::max(double(positions), original);
    base *= std::pow(scaling.factor * length / original - (scaling.factor - 1), d / (d - 2));
  }
  // The i at which `turns` fit into the original positions (Peng et al. 2023, equation 17).
  const auto index_of = [&](double turns) {
    return d * std::log(original / (2 * std::numbers::pi * turns)) / (2 * std::log(base));
  };
  const double low = std::max(0.0, std::floor(index_of(scaling.fast)));
  const double high = std::min(d - 1, std::ceil(index_of(scaling.slow)));
  std::vector<double> out;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    const double plain = std::pow(base, -2.0 * double(i) / d), slowed = plain / scaling.factor;
    const double turns = original * plain / (2 * std::numbers::pi);
    double kept = 1;  // how much of the plain frequency is kept
    if (scaling.kind == Kind::linear) kept = 0;
    if (scaling.kind == Kind::yarn) kept = 1 - (double(i) - low) / std::max(high - low, 1e-3);
    if (scaling.kind == Kind::llama3) kept = (turns - scaling.slow) / (scaling.fast - scaling.slow);
    kept = std::clamp(kept, 0.0, 1.0);
    out.push_back(kept * plain + (1 - kept) * slowed);
  }
  return out;
}

Tensor rope_table(std::int64_t positions, std::span<const double> frequencies, DType type,
                  Device& device) {
  const auto half = std::int64_t(frequencies.size());
  Tensor table = Tensor::empty({positions, 2 * half}, accumulation(type), device).detached();
  if (table.is_meta()) return table;
  const auto fill = [&](auto* out) {
    using Value = std::remove_pointer_t<decltype(out)>;
    for (std::int64_t p = 0; p < positions; ++p)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = double(p) * frequencies[std::size_t(i)];
        out[p * 2 * half + i] = Value(std::cos(angle));
        out[p * 2 * half + half + i] = Value(std::sin(angle));
      }
  };
  require(device.kind() == DeviceKind::cpu, "rope_table: made on the CPU");
  if (table.dtype() == DType::f64) {
    fill(table.data<double>());
  } else {
    fill(table.data<float>());
  }
  return table;
}

namespace {

Label rope_label(const Tensor& x, const Tensor& position, const Tensor& table) {
  require(x.columns() % table.columns() == 0 && table.dtype() == accumulation(x.dtype()) &&
              position.size() == x.rows() && position.dtype() == DType::i32,
          "rope: x is ", x.text(), ", position ", position.text(), ", table ", table.text());
  return meet("rope", Meeting::product, {x.label(), position.label()});
}

Tensor rope_into(const Tensor& y, const Tensor& x, const Tensor& position, const Tensor& table) {
  backend(x).rope(y, x, position, table, false);
  return Tape::record(
      y, {x}, false,
      [=, label = gradient_of(x.label())](const Tensor& dy) {
        const bool is_free = dy.sharers() == 1;  // nothing else has it
        Tensor dx = (is_free ? dy.columns(0, dy.columns()) : Tensor::like(dy)).labelled(label);
        backend(dy).rope(dx, dy, position, table, true);
        return dx;
      },
      "rope");
}

}  // namespace

Tensor rope(const Tensor& x, const Tensor& position, const Tensor& table) {
  const Label label = rope_label(x, position, table);
  return rope_into(Tensor::empty(x.shape(), x.dtype(), x.device(), label), x, position, table);
}

Tensor rope_in_place(const Tensor& x, const Tensor& position, const Tensor& table) {
  const Label label = rope_label(x, position, table);
  return rope_into(x.columns(0, x.columns()).labelled(label), x, position, table);
}

}  // namespace pf
