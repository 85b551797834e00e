#include "models/attend.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/ops/attention.h"
#include "core/ops/rows.h"
#include "models/context_parallel.h"
#include "parallel/ring_attention.h"
#include "parallel/table.h"

namespace pf {
namespace {

using Areas = std::vector<Area>;

Tensor over_gathered(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                     const Areas& areas, const Context& context) {
  const Tensor keys = all_gather(k, *context.mesh, axes::cp);
  const Tensor values = all_gather(v, *context.mesh, axes::cp);
  return attention(q, keys, values, areas_in_rows(areas, context.batch.queries, context.batch.keys),
                   shape);
}

// KV heads fewer than ranks are repeated: each rank has one.
Tensor over_heads(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                  const Areas& areas, const Context& context) {
  const std::int64_t ranks = context.mesh->size(axes::cp);
  require(heads_fit(shape.heads, shape.kv_heads, ranks), "ulysses: ", shape.heads, " heads and ",
          shape.kv_heads, " KV heads over cp = ", ranks);
  const std::int64_t times = std::max<std::int64_t>(ranks / shape.kv_heads, 1);
  const auto exchanged = [&](const Tensor& x) {
    return columns_for_rows(x, *context.mesh, axes::cp);
  };
  AttentionShape of_rank = shape;
  of_rank.heads /= ranks;
  of_rank.kv_heads = shape.kv_heads * times / ranks;
  const Tensor y = attention(exchanged(q), exchanged(repeat_heads(k, shape.kv_heads, times)),
                             exchanged(repeat_heads(v, shape.kv_heads, times)),
                             areas_in_rows(areas, context.batch.keys, context.batch.keys), of_rank);
  return rows_for_columns(y, *context.mesh, axes::cp);
}

Tensor over_ring(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                 const Areas& areas, const Context& context, int neighbours) {
  const Mesh& mesh = *context.mesh;
  return ring_attention(q, k, v, areas_in_ring(areas, context.batch, mesh, neighbours), shape, mesh,
                        axes::cp, neighbours);
}

}  // namespace

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              std::int64_t window, CpMethod method, const Context& context) {
  const Areas& all = context.batch.areas;
  const Areas areas = window == 0 ? all : within_window(all, window);
  switch (method) {
    case CpMethod::ring:
      return over_ring(q, k, v, shape, areas, context, 1);
    case CpMethod::ulysses:
      return over_heads(q, k, v, shape, areas, context);
    case CpMethod::two_level:
      return over_ring(
          q, k, v, shape, areas, context,
          int(two_level_neighbours(shape.heads, shape.kv_heads, context.mesh->size(axes::cp))));
    case CpMethod::all_gather:
      break;
  }
  return over_gathered(q, k, v, shape, areas, context);
}

bool heads_fit(std::int64_t heads, std::int64_t kv_heads, std::int64_t ranks) {
  return heads % ranks == 0 && (kv_heads % ranks == 0 || ranks % kv_heads == 0);
}

std::int64_t two_level_neighbours(std::int64_t heads, std::int64_t kv_heads, std::int64_t ranks) {
  for (std::int64_t size = ranks / 2; size > 1; --size)
    if (ranks % size == 0 && heads % size == 0 && kv_heads % size == 0) return size;
  return 1;
}

}  // namespace pf
