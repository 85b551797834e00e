// Attention on the CPU.
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/cpu/cpu_backend.h"
#include "core/trace.h"

namespace pf {
namespace {

// One row: y [heads * dim], lse [heads].
template <class A>
void merge_row(A* y, A* lse, const A* part_y, const A* part_lse, std::int64_t heads,
               std::int64_t dim) {
  constexpr A nothing = -std::numeric_limits<A>::infinity();
  for (std::int64_t h = 0; h < heads; ++h, y += dim, part_y += dim) {
    if (part_lse[h] == nothing) continue;
    const A apart = part_lse[h] - lse[h];  // infinite where y is of no keys
    const A share = A(1) / (A(1) + std::exp(-apart));
    for (std::int64_t c = 0; c < dim; ++c) y[c] += share * (part_y[c] - y[c]);
    lse[h] = (apart > 0 ? part_lse[h] : lse[h]) + std::log1p(std::exp(-std::abs(apart)));
  }
}

template <class A>
void merge_rows(const Tensor& y, const Tensor& lse, const Tensor& part_y, const Tensor& part_lse,
                std::int64_t begin, std::int64_t end) {
  const std::int64_t heads = lse.columns(), dim = y.columns() / heads;
  for (std::int64_t r = begin; r < end; ++r)
    merge_row(y.data<A>() + r * y.pitch(), lse.data<A>() + r * lse.pitch(),
              part_y.data<A>() + r * part_y.pitch(), part_lse.data<A>() + r * part_lse.pitch(),
              heads, dim);
}

}  // namespace

std::size_t CpuBackend::attention_workspace(const Tensor& q, const Tensor& k,
                                            std::span<const Area> areas,
                                            const AttentionShape& shape) {
  return attention_.attention_workspace(q, k, areas, shape);
}

void CpuBackend::attention(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                           const Tensor& v, std::span<const Area> areas,
                           const AttentionShape& shape, const Tensor& work) {
  const Span span("kernel", "attention");
  attention_.attention(y, lse, q, k, v, areas, shape, work);
}

std::size_t CpuBackend::attention_backward_workspace(const Tensor& q, const Tensor& k,
                                                     std::span<const Area> areas,
                                                     const AttentionShape& shape) {
  return attention_.attention_backward_workspace(q, k, areas, shape);
}

void CpuBackend::attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                    const Tensor& dy, const Tensor& y, const Tensor& lse,
                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                    std::span<const Area> areas, const AttentionShape& shape,
                                    const Tensor& work) {
  const Span span("kernel", "attention_backward");
  attention_.attention_backward(dq, dk, dv, dy, y, lse, q, k, v, areas, shape, work);
}

void CpuBackend::merge_attention(const Tensor& y, const Tensor& lse, const Tensor& part_y,
                                 const Tensor& part_lse) {
  const Span span("kernel", "merge_attention");
  const auto merge = y.dtype() == DType::f64 ? merge_rows<double> : merge_rows<float>;
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    merge(y, lse, part_y, part_lse, begin, end);
  });
}

}  // namespace pf
