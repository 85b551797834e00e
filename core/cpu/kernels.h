// Loops of the CPU backend, compiled once for each instruction set and element type.
//
// Each kernel works on a part of its tensors, so that workers share the whole: `rows` of them, or
// row-major numbers of `elements`, [begin, end). Otherwise the contracts are those of
// core/backend.h.
#pragma once

#include <cstdint>
#include <span>

#include "core/backend.h"
#include "core/cpu/processor.h"
#include "core/tensor.h"

namespace pf {

struct Kernels {
  using i64 = std::int64_t;

  // Elements.
  void (*copy)(const Tensor& y, const Tensor& x, i64 begin, i64 end);  // casts
  void (*add)(const Tensor& y, std::span<const Tensor> xs, i64 begin, i64 end);
  void (*scale)(const Tensor& y, const Tensor& x, double factor, i64 begin, i64 end);
  void (*normal)(const Tensor& y, const Random& random, double std, const Shape& whole,
                 std::span<const i64> first, i64 begin, i64 end);
  void (*activation)(const Tensor& y, const Tensor& x, ActivationKind kind, i64 begin, i64 end);
  void (*activation_backward)(const Tensor& dx, const Tensor& dy, const Tensor& x,
                              ActivationKind kind, i64 begin, i64 end);
  double (*dot)(const Tensor& a, const Tensor& b, i64 begin, i64 end);
  // Returns the sum of squares.
  double (*reduce)(const Tensor& y, std::span<const Tensor> xs, i64 begin, i64 end);
  // Also writes the new values to copy[0, end - begin), unless it is null.
  void (*adamw)(const AdamWTensor& tensor, const AdamWStep& step, Bf16* copy, i64 begin, i64 end);

  // Rows.
  void (*swiglu)(const Tensor& y, const Tensor& gate, const Tensor& up, const Tensor& row,
                 i64 begin, i64 end);
  void (*swiglu_backward)(const Tensor& dgate, const Tensor& dup, const Tensor& drow,
                          const Tensor& y, const Tensor& dy, const Tensor& gate, const Tensor& up,
                          const Tensor& row, i64 begin, i64 end);
  void (*dropout)(const Tensor& y, const Tensor& x, double p, const Random& random,
                  const Tensor& token, i64 width, i64 first_column, i64 begin, i64 end);
  void (*embedding)(const Tensor& y, const Tensor& ids, const Tensor& w, i64 first, i64 begin,
                    i64 end);
  void (*rms_norm)(const Tensor& y, const Tensor& scale, const Tensor& x, const Tensor& w,
                   double eps, i64 begin, i64 end);
  // Adds to sums [w.size()], of the accumulation type; none where it is null.
  void (*rms_norm_backward)(const GradientTarget& dx, void* sums, const Tensor& dy, const Tensor& x,
                            const Tensor& scale, const Tensor& w, i64 begin, i64 end);
  // Adds dw's to sums [2, w.size()], then db's; none where it is null.
  void (*layer_norm)(const Tensor& y, const Tensor& statistics, const Tensor& x, const Tensor& w,
                     const Tensor& b, double eps, i64 begin, i64 end);
  void (*layer_norm_backward)(const GradientTarget& dx, void* sums, const Tensor& dy,
                              const Tensor& x, const Tensor& statistics, const Tensor& w, i64 begin,
                              i64 end);
  void (*add_row)(const Tensor& y, const Tensor& x, const Tensor& row, i64 begin, i64 end);
  void (*join_heads)(const Tensor& y, const Tensor& a, const Tensor& b, i64 heads, i64 begin,
                     i64 end);
  void (*join_heads_backward)(const Tensor& da, const Tensor& db, const Tensor& dy, i64 heads,
                              i64 begin, i64 end);
  void (*rope)(const Tensor& y, const Tensor& x, const Tensor& position, const Tensor& table,
               bool inverse, i64 begin, i64 end);
  void (*sum_rows)(const GradientTarget& y, const Tensor& x, const Tensor& place, i64 per,
                   i64 begin, i64 end);
  void (*route)(const Tensor& scores, const Tensor& weights, const Tensor& lse,
                const Tensor& chosen, const Tensor& logits, const Router& router, bool is_chosen,
                i64 begin, i64 end);
  void (*route_backward)(const Tensor& dlogits, const Tensor& dscores, const Tensor& dweights,
                         const Tensor& dlse, const Tensor& scores, const Tensor& weights,
                         const Tensor& chosen, const Tensor& logits, const Router& router,
                         i64 begin, i64 end);
  void (*row_max)(const Tensor& top, const Tensor& logits, i64 begin, i64 end);
  void (*loss_parts)(const Tensor& exp_sum, const Tensor& picked, const Tensor& logits,
                     const Tensor& top, const Tensor& target, i64 first, i64 begin, i64 end);
  void (*loss_parts_backward)(const Tensor& dlogits, const Tensor& dexp_sum, const Tensor& dpicked,
                              const Tensor& logits, const Tensor& top, const Tensor& target,
                              i64 first, i64 begin, i64 end);
  double (*cross_entropy)(const Tensor& exp_sum, const Tensor& picked, const Tensor& top,
                          const Tensor& mask, i64 begin, i64 end);
  void (*cross_entropy_backward)(const Tensor& dexp_sum, const Tensor& dpicked, double factor,
                                 const Tensor& exp_sum, const Tensor& mask, i64 begin, i64 end);
  void (*segment_sum_backward)(const Tensor& dx, const Tensor& dy, const Tensor& mask,
                               const Tensor& segment, i64 begin, i64 end);
  void (*normalise_rows)(const Tensor& y, const Tensor& x, i64 begin, i64 end);
  double (*square_sum)(const Tensor& x, const Tensor& mask, i64 begin, i64 end);
  void (*square_sum_backward)(const Tensor& dx, double factor, const Tensor& x, const Tensor& mask,
                              i64 begin, i64 end);

  // Columns.
  void (*embedding_backward)(const Tensor& dw, const Tensor& ids, const Tensor& dy, i64 first,
                             i64 begin, i64 end);
  void (*add_row_backward)(const GradientTarget& drow, const Tensor& dy, i64 begin, i64 end);
  void (*segment_sum)(const Tensor& y, const Tensor& x, const Tensor& mask, const Tensor& segment,
                      i64 begin, i64 end);
  // y (+)= the sum over i < count of sums[i * stride + column], of y's type.
  void (*add_sums)(const GradientTarget& y, const void* sums, i64 count, i64 stride, i64 begin,
                   i64 end);
};

// For tensors whose activations are of the floating `type`.
const Kernels& kernels(Isa isa, DType type);

namespace base {
const Kernels& kernels(DType type);
}
namespace v3 {
const Kernels& kernels(DType type);
}
namespace v4 {
const Kernels& kernels(DType type);
}

}  // namespace pf
