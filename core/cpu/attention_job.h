// One attention, forward or backward, on operands of one type. Only for core/cpu/attention*.cpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "core/aligned.h"
#include "core/cpu/attention_pieces.h"
#include "core/cpu/attention_plan.h"
#include "core/cpu/attention_rows.h"
#include "core/cpu/bf16_gemm.h"
#include "core/cpu/gemm.h"
#include "core/tensor.h"
#include "core/workers.h"

namespace pf::cpu_attention {

using i64 = std::int64_t;

// Sides of blocks of scores: forward, rows of queries by keys; backward, of keys by queries.
constexpr i64 query_rows = 64, key_columns = 128;
constexpr i64 key_rows = 64, query_columns = 128;

template <class T>
struct HeadRows {
  T* data;  // of row 0
  i64 pitch;
  T* row(i64 r) const { return data + r * pitch; }
};

template <class T>
HeadRows<T> head_of(const Tensor& x, i64 head, i64 dim) {
  return {x.data<T>() + head * dim, x.pitch()};
}

// What sums run over is rounded up where operands are read in blocks; what those have beyond their
// own rows is zero.
template <class T>
constexpr i64 rounded(i64 size) {
  return std::is_same_v<T, Bf16> ? in_blocks(size) : size;
}
template <class T>
Interval rounded(Interval depth) {
  return std::is_same_v<T, Bf16>
             ? Interval{depth.begin / gemm_block * gemm_block, in_blocks(depth.end)}
             : depth;
}
// Rows of a product at a time where each sums over what its row of scores sees.
template <class T>
constexpr i64 row_step = std::is_same_v<T, Bf16> ? gemm_block : whole_tiles;

inline i64 last_place(const std::vector<AttentionSpan>& spans) {
  return spans.empty() ? 0 : spans.back().place + in_blocks(spans.back().size());
}

// Of a backward.
struct Inputs {
  const Tensor &dy, &y, &lse, &q, &k, &v;
};

template <class T>
using GemmOf = std::conditional_t<std::is_same_v<T, Bf16>, Bf16Gemm, Gemm<T>>;

template <class T>
class Job {
 public:
  using A = typename AttentionRows<T>::A;

  Job(Workers& workers, const GemmOf<T>& gemm, Isa isa, std::span<const Area> areas,
      const AttentionShape& shape)
      : workers_(workers),
        gemm_(gemm),
        rows_(attention_rows<T>(isa)),
        sums_(attention_rows<A>(isa)),
        plan_(areas),
        shape_(shape),
        dim_(shape.head_dim),
        wide_(in_blocks(shape.head_dim)),
        value_dim_(shape.values()),
        value_wide_(in_blocks(shape.values())),
        group_(shape.heads / shape.kv_heads),
        gemm_bytes_(i64(bytes_of_gemm())) {}

  std::size_t forward_bytes() {
    return forward_scratch(nullptr).bytes + worker_count() * block_scratch(nullptr).bytes;
  }
  void forward(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
               const Tensor& v, std::byte* work);

  std::size_t backward_bytes(i64 keys) {
    return sums_scratch(nullptr, keys).bytes + worker_count() * unit_scratch(nullptr).bytes;
  }
  void backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Inputs& in,
                std::byte* work);

 private:
  static constexpr bool is_blocked = std::is_same_v<T, Bf16>;

  // All keys and values in panels: k' [dim, keys] and v [keys, dim] of each KV head of each span.
  struct ForwardScratch {
    T *keys, *values;
    std::size_t bytes;
  };
  ForwardScratch forward_scratch(std::byte* work) const {
    Cutter cutter(work);
    const i64 rows = last_place(plan_.k_spans) * shape_.kv_heads;
    T* keys = cutter.cut<T>(rows * wide_);
    T* values = cutter.cut<T>(rows * value_wide_);
    return {keys, values, cutter.bytes()};
  }

  struct BlockScratch {
    A* scores;
    T* p;
    A *y, *top, *sum;
    std::byte* gemm;
    std::size_t bytes;
  };
  BlockScratch block_scratch(std::byte* work) const {
    Cutter cutter(work);
    BlockScratch scratch{};
    scratch.scores = cutter.cut<A>(query_rows * key_columns);
    scratch.p = cutter.cut<T>(query_rows * key_columns);
    scratch.y = cutter.cut<A>(query_rows * value_dim_);
    scratch.top = cutter.cut<A>(query_rows);
    scratch.sum = cutter.cut<A>(query_rows);
    scratch.gemm = cutter.cut<std::byte>(gemm_bytes_);
    scratch.bytes = cutter.bytes();
    return scratch;
  }

  // First row of one span and KV head, in a scratch for all.
  i64 row_of(const AttentionSpan& span, i64 kv_head) const {
    return span.place * shape_.kv_heads + in_blocks(span.size()) * kv_head;
  }
  Panels<T> keys_of(const ForwardScratch& scratch, const AttentionSpan& span, i64 kv_head) const {
    return gemm_.panels(scratch.keys + row_of(span, kv_head) * wide_, dim_);
  }
  Panels<T> values_of(const ForwardScratch& scratch, const AttentionSpan& span, i64 kv_head) const {
    return gemm_.panels(scratch.values + row_of(span, kv_head) * value_wide_, span.size());
  }
  void pack_keys(const ForwardScratch& scratch, const AttentionSpan& span, i64 kv_head, i64 from,
                 const Tensor& k, const Tensor& v) const;
  void pack_all_keys(const ForwardScratch& scratch, const Tensor& k, const Tensor& v) const;

  void block_forward(const Tensor& y, const Tensor& lse, const Tensor& q, i64 head, i64 begin,
                     i64 end, const std::vector<std::size_t>& areas, const ForwardScratch& keys,
                     const BlockScratch& scratch) const;

  // Gradients of keys and of values [splits, keys, kv_heads * dim], before they are rounded.
  struct SumsScratch {
    A *dk, *dv;
    i64 key_step, value_step;  // from one split to the next
    std::size_t bytes;
  };
  SumsScratch sums_scratch(std::byte* work, i64 keys) const {
    Cutter cutter(work);
    const i64 key_step = keys * key_pitch(), value_step = keys * value_pitch();
    A* dk = cutter.cut<A>(splits() * key_step);
    A* dv = cutter.cut<A>(splits() * value_step);
    return {dk, dv, key_step, value_step, cutter.bytes()};
  }

  // Of one head and all queries of a component: q and dy in panels, as they are and transposed.
  struct UnitScratch {
    T *q, *q_turned, *dy, *dy_turned, *k;
    A *dq, *lse, *delta;
    A *scores, *dp;
    T *p, *dscores, *dscores_turned;
    std::byte* gemm;
    std::size_t bytes;
  };
  UnitScratch unit_scratch(std::byte* work) const {
    i64 rows = 0;
    for (const AttentionComponent& component : plan_.components)
      rows = std::max(rows, component.q_rows);
    Cutter cutter(work);
    UnitScratch scratch{};
    for (T** panels : {&scratch.q, &scratch.q_turned}) *panels = cutter.cut<T>(rows * wide_);
    for (T** panels : {&scratch.dy, &scratch.dy_turned})
      *panels = cutter.cut<T>(rows * value_wide_);
    scratch.k = cutter.cut<T>(key_rows * wide_);
    scratch.dq = cutter.cut<A>(rows * dim_);
    scratch.lse = cutter.cut<A>(rows);
    scratch.delta = cutter.cut<A>(rows);
    scratch.scores = cutter.cut<A>(key_rows * query_columns);
    scratch.dp = cutter.cut<A>(key_rows * query_columns);
    scratch.p = cutter.cut<T>(key_rows * query_columns);
    scratch.dscores = cutter.cut<T>(key_rows * query_columns);
    scratch.dscores_turned = cutter.cut<T>(is_blocked ? key_rows * query_columns : 0);
    scratch.gemm = cutter.cut<std::byte>(gemm_bytes_);
    scratch.bytes = cutter.bytes();
    return scratch;
  }

  // Units are (component, KV head), or (component, head) where those would be too few.
  i64 splits() const {
    const i64 units = i64(plan_.components.size()) * shape_.kv_heads;
    return units < i64{2} * workers_.count() ? group_ : 1;
  }

  // A span of q and its place in the unit's scratch.
  struct QuerySpan {
    const AttentionSpan* span;
    i64 place;
  };
  struct KeyBlock {
    i64 head, begin, end;
    A *dk, *dv;  // of the row `begin`
  };
  struct Tile {
    i64 key, rows;        // of k
    i64 column, columns;  // of the span of q
    Band band;
  };
  void prepare_queries(const Inputs& in, i64 head, const QuerySpan& at,
                       const UnitScratch& scratch) const;
  void unit_backward(const Tensor& dq, const Inputs& in, const AttentionComponent& component,
                     i64 head, bool is_first, A* dk, A* dv, const UnitScratch& scratch) const;
  void block_backward(const Inputs& in, const KeyBlock& block, const AttentionArea& area,
                      const QuerySpan& at, const UnitScratch& scratch) const;
  void tile_scores(const Inputs& in, i64 head, const Tile& tile, const QuerySpan& at,
                   const UnitScratch& scratch) const;
  void tile_gradients(const Tile& tile, const QuerySpan& at, A* dk, A* dv,
                      const UnitScratch& scratch) const;

  // f(loops that write y): of type T or, where y is, of the accumulation type.
  template <class F>
  void as_written(const Tensor& y, F f) const {
    if (y.dtype() == dtype_of<T>())
      f(rows_);
    else
      f(sums_);
  }

  // Of any product here.
  std::size_t bytes_of_gemm() const {
    if constexpr (is_blocked)
      return gemm_.scratch_bytes(
          std::max({shape_.head_dim, shape_.values(), key_columns, query_columns, key_rows}));
    else
      return gemm_.scratch_bytes(query_columns, key_rows);
  }

  std::size_t worker_count() const { return std::size_t(workers_.count()); }
  i64 key_pitch() const { return shape_.kv_heads * dim_; }
  i64 value_pitch() const { return shape_.kv_heads * value_dim_; }

  Workers& workers_;
  const GemmOf<T>& gemm_;
  const AttentionRows<T>& rows_;
  const AttentionRows<A>& sums_;
  AttentionPlan plan_;
  AttentionShape shape_;
  i64 dim_, wide_, value_dim_, value_wide_, group_, gemm_bytes_;
};

}  // namespace pf::cpu_attention
