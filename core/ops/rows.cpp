#include "core/ops/rows.h"

#include <cmath>
#include <vector>

#include "core/error.h"

namespace pf {

Tensor embedding(const Tensor& ids, Parameter& w, DType type) {
  require(ids.dtype() == DType::i32, "embedding ", w.name(), ": ids are ", ids.text(),
          "; i32 is wanted");
  const BorrowedValue weight = borrow(w);
  require(w.shape().dims() == 2 && weight.value.dtype() == accumulation(type), "embedding ",
          w.name(), ": ", weight.value.text(), " as ", name(type));
  const std::int64_t first = w.block().begin[0];
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

Tensor rms_norm(const Tensor& x, Parameter& w, double eps) {
  require(w.shape().dims() == 1 && x.columns() % w.size() == 0, "rms_norm: x is ", x.text(), ", ",
          w.name(), " is ", w.shape());
  const BorrowedValue weight = borrow(w);
  require(weight.value.dtype() == accumulation(x.dtype()), "rms_norm: x is ", x.text(), ", ",
          w.name(), " is ", weight.value.text());
  const bool is_whole_row = w.size() == x.columns();
  const Label rows = is_whole_row ? row_wise("rms_norm", x.label()) : x.label();
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(),
                                 meet("rms_norm", Meeting::any, {rows, weight.label}));
  const Tensor scale = Tensor::empty({x.rows(), x.columns() / w.size()}, accumulation(x.dtype()),
                                     x.device(), constant(x.label()));
  backend(x).rms_norm(y, scale, x, weight.value, eps);
  return Tape::record(y, {x}, w.is_trainable(), [x, scale, &w](const Tensor& dy) {
    Tensor dx = Tensor::gradient_like(x);
    const auto bytes = std::int64_t(backend(x).rms_norm_workspace(x, w.value()));
    const GradientTarget dw = w.is_trainable() ? w.gradient_target() : GradientTarget{};
    backend(x).rms_norm_backward(dx, dw, dy, x, scale, borrow(w).value,
                                 Tensor::empty({bytes}, DType::u8, x.device()));
    return dx;
  });
}

Tensor rope_table(std::int64_t positions, std::int64_t head_dim, double base, DType type,
                  Device& device) {
  require(head_dim % 2 == 0, "rope: head_dim is ", head_dim, "; an even number is wanted");
  Tensor table = Tensor::empty({positions, head_dim}, accumulation(type), device).detached();
  if (table.is_meta()) return table;
  const auto fill = [&](auto* out) {
    using Value = std::remove_pointer_t<decltype(out)>;
    for (std::int64_t p = 0; p < positions; ++p)
      for (std::int64_t i = 0; i < head_dim / 2; ++i) {
        const double angle = double(p) * std::pow(base, -2.0 * double(i) / double(head_dim));
        out[p * head_dim + i] = Value(std::cos(angle));
        out[p * head_dim + head_dim / 2 + i] = Value(std::sin(angle));
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

Tensor rope(const Tensor& x, const Tensor& position, const Tensor& table) {
  require(x.columns() % table.columns() == 0 && table.dtype() == accumulation(x.dtype()) &&
              position.size() == x.rows() && position.dtype() == DType::i32,
          "rope: x is ", x.text(), ", position ", position.text(), ", table ", table.text());
  const Label label = meet("rope", Meeting::product, {x.label(), position.label()});
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(), label);
  backend(x).rope(y, x, position, table, false);
  return Tape::record(y, {x}, false, [=, label = gradient_of(x.label())](const Tensor& dy) {
    Tensor dx = Tensor::like(dy).labelled(label);
    backend(dy).rope(dx, dy, position, table, true);
    return dx;
  });
}

}  // namespace pf
