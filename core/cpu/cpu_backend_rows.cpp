// Rows on the CPU: embedding, normalisation, positions, sums of rows.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/aligned.h"
#include "core/cpu/cpu_backend.h"
#include "core/dtype.h"
#include "core/trace.h"

namespace pf {

void CpuBackend::embedding(const Tensor& y, const Tensor& ids, const Tensor& w,
                           std::int64_t first) {
  const Span span("kernel", "embedding");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).embedding(y, ids, w, first, begin, end);
  });
}

// Workers own columns: a row's gradients are added in the order of its tokens.
void CpuBackend::embedding_backward(const GradientTarget& dw, const Tensor& ids, const Tensor& dy,
                                    std::int64_t first) {
  const Span span("kernel", "embedding_backward");
  if (!dw.adds) fill(dw.tensor, 0);
  share(dy.columns(), 32, dy.rows(), [&](std::int64_t begin, std::int64_t end, int) {
    of(dy).embedding_backward(dw.tensor, ids, dy, first, begin, end);
  });
}

void CpuBackend::rms_norm(const Tensor& y, const Tensor& scale, const Tensor& x, const Tensor& w,
                          double eps) {
  const Span span("kernel", "rms_norm");
  over_rows(x.rows(), x.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(x).rms_norm(y, scale, x, w, eps, begin, end);
  });
}

// A row of sums for each worker.
std::size_t CpuBackend::rms_norm_workspace(const Tensor& x, const Tensor& w) {
  return std::size_t(workers_.count()) *
         aligned(std::size_t(w.size()) * size_of(accumulation(x.dtype())));
}

void CpuBackend::rms_norm_backward(const GradientTarget& dx, const GradientTarget& dw,
                                   const Tensor& dy, const Tensor& x, const Tensor& scale,
                                   const Tensor& w, const Tensor& work) {
  const Span span("kernel", "rms_norm_backward");
  const std::size_t element = size_of(accumulation(x.dtype()));
  const std::size_t bytes = aligned(std::size_t(w.size()) * element);
  std::byte* sums = dw.tensor ? row_of(work, 0) : nullptr;
  if (sums != nullptr) std::memset(sums, 0, bytes * std::size_t(workers_.count()));
  over_rows(x.rows(), x.columns(), [&](std::int64_t begin, std::int64_t end, int worker) {
    std::byte* own = sums == nullptr ? nullptr : sums + std::size_t(worker) * bytes;
    of(x).rms_norm_backward(dx, own, dy, x, scale, w, begin, end);
  });
  if (sums != nullptr)
    of(x).add_sums(dw, sums, workers_.count(), std::int64_t(bytes / element), 0, w.size());
}

void CpuBackend::layer_norm(const Tensor& y, const Tensor& statistics, const Tensor& x,
                            const Tensor& w, const Tensor& b, double eps) {
  const Span span("kernel", "layer_norm");
  over_rows(x.rows(), x.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(x).layer_norm(y, statistics, x, w, b, eps, begin, end);
  });
}

std::size_t CpuBackend::layer_norm_workspace(const Tensor& x, const Tensor& w) {
  return aligned(std::size_t(2 * w.size()) * size_of(accumulation(x.dtype()))) *
         std::size_t(workers_.count());
}

void CpuBackend::layer_norm_backward(const GradientTarget& dx, const GradientTarget& dw,
                                     const GradientTarget& db, const Tensor& dy, const Tensor& x,
                                     const Tensor& statistics, const Tensor& w,
                                     const Tensor& work) {
  const Span span("kernel", "layer_norm_backward");
  const std::size_t element = size_of(accumulation(x.dtype()));
  const std::size_t bytes = aligned(std::size_t(2 * w.size()) * element);
  std::byte* sums = dw.tensor || db.tensor ? row_of(work, 0) : nullptr;
  if (sums != nullptr) std::memset(sums, 0, bytes * std::size_t(workers_.count()));
  over_rows(x.rows(), x.columns(), [&](std::int64_t begin, std::int64_t end, int worker) {
    std::byte* own = sums == nullptr ? nullptr : sums + std::size_t(worker) * bytes;
    of(x).layer_norm_backward(dx, own, dy, x, statistics, w, begin, end);
  });
  const auto add = [&](const GradientTarget& to, std::size_t offset) {
    if (to.tensor)
      of(x).add_sums(to, sums + offset * element, workers_.count(), std::int64_t(bytes / element),
                     0, w.size());
  };
  add(dw, 0);
  add(db, std::size_t(w.size()));
}

void CpuBackend::join_heads(const Tensor& y, const Tensor& a, const Tensor& b, std::int64_t heads) {
  const Span span("kernel", "join_heads");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).join_heads(y, a, b, heads, begin, end);
  });
}

void CpuBackend::join_heads_backward(const Tensor& da, const Tensor& db, const Tensor& dy,
                                     std::int64_t heads) {
  const Span span("kernel", "join_heads_backward");
  over_rows(dy.rows(), dy.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(dy).join_heads_backward(da, db, dy, heads, begin, end);
  });
}

void CpuBackend::rope(const Tensor& y, const Tensor& x, const Tensor& position, const Tensor& table,
                      bool inverse) {
  const Span span("kernel", "rope");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).rope(y, x, position, table, inverse, begin, end);
  });
}

void CpuBackend::take_rows(const Tensor& y, const Tensor& x, const Tensor& order,
                           std::int64_t per) {
  const Span span("kernel", "take_rows");
  const std::size_t bytes = std::size_t(y.columns()) * size_of(y.dtype());
  const auto* from = order.data<std::int32_t>();
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r)
      if (from[r] >= 0)
        std::memcpy(row_of(y, r), row_of(x, from[r] / per), bytes);
      else
        std::memset(row_of(y, r), 0, bytes);
  });
}

void CpuBackend::sum_rows(const GradientTarget& y, const Tensor& x, const Tensor& place,
                          std::int64_t per) {
  const Span span("kernel", "sum_rows");
  const std::int64_t rows = y.tensor.rows(), columns = y.tensor.columns();
  over_rows(rows, columns * per, [&](std::int64_t begin, std::int64_t end, int) {
    of(x).sum_rows(y, x, place, per, begin, end);
  });
}

}  // namespace pf
