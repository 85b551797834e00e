#include "core/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/cpu/attention_plan.h"
#include "core/cpu/attention_rows.h"
#include "core/cpu/bf16_gemm.h"
#include "core/cpu/gemm.h"

namespace pf {
namespace {

using i64 = std::int64_t;

// Sides of blocks of scores: forward, rows of queries by keys; backward, of keys by queries.
constexpr i64 query_rows = 128, key_columns = 256;
constexpr i64 key_rows = 128, query_columns = 256;
constexpr i64 packed_keys = 256;  // that are packed at a time

// Cuts a workspace into arrays. With no workspace it only counts.
class Cutter {
 public:
  explicit Cutter(std::byte* at) : begin_(at), at_(at) {}
  template <class T>
  T* cut(i64 size) {
    T* here = reinterpret_cast<T*>(at_);
    at_ += (std::size_t(size) * sizeof(T) + 63) / 64 * 64;
    return here;
  }
  std::size_t bytes() const { return std::size_t(at_ - begin_); }

 private:
  std::byte* begin_;
  std::byte* at_;
};

std::byte* bytes_of(const Tensor& work) {
  return work ? static_cast<std::byte*>(work.raw()) : nullptr;
}

template <class T>
struct Head {
  T* data;  // of row 0
  i64 pitch;
  T* row(i64 r) const { return data + r * pitch; }
};

template <class T>
Head<T> head_of(const Tensor& x, i64 head, i64 dim) {
  return {x.data<T>() + head * dim, x.pitch()};
}

// What an operand's rows are rounded up to where it is read in blocks.
template <class T>
constexpr i64 rounded(i64 size) {
  return std::is_same_v<T, Bf16> ? in_blocks(size) : size;
}

i64 last_place(const std::vector<AttentionSpan>& spans) {
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

  // ---- forward ----

  // All keys and values, as the products read them: k' [dim, keys] and v [keys, dim] of each KV
  // head of each span.
  struct ForwardScratch {
    T *keys, *values;
    std::size_t bytes;
  };
  ForwardScratch forward_scratch(std::byte* work) const {
    Cutter cutter(work);
    const i64 rows = is_blocked ? last_place(plan_.k_spans) * shape_.kv_heads : 0;
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
  void pack_keys(const ForwardScratch& scratch, const AttentionSpan& span, i64 kv_head, i64 from,
                 const Tensor& k, const Tensor& v) const;
  void pack_all_keys(const ForwardScratch& scratch, const Tensor& k, const Tensor& v) const;

  void block_forward(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                     const Tensor& v, i64 head, i64 begin, i64 end,
                     const std::vector<std::size_t>& areas, const ForwardScratch& keys,
                     const BlockScratch& scratch) const;

  // ---- backward ----

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

  // Of one head and all queries of a component; what has "blocks" is empty unless bf16.
  struct UnitScratch {
    T *q_blocks, *q_turned, *dy_blocks, *dy_turned, *k_blocks;
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
    for (T** blocks : {&scratch.q_blocks, &scratch.q_turned})
      *blocks = cutter.cut<T>(is_blocked ? rows * wide_ : 0);
    for (T** blocks : {&scratch.dy_blocks, &scratch.dy_turned})
      *blocks = cutter.cut<T>(is_blocked ? rows * value_wide_ : 0);
    scratch.k_blocks = cutter.cut<T>(is_blocked ? key_rows * wide_ : 0);
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
  };
  void prepare_queries(const Inputs& in, i64 head, const QuerySpan& at,
                       const UnitScratch& scratch) const;
  void unit_backward(const Tensor& dq, const Inputs& in, const AttentionComponent& component,
                     i64 head, bool is_first, A* dk, A* dv, const UnitScratch& scratch) const;
  void block_backward(const Inputs& in, const KeyBlock& block, const AttentionArea& area,
                      const QuerySpan& at, const UnitScratch& scratch) const;
  void tile_scores(const Inputs& in, i64 head, const Tile& tile, const QuerySpan& at,
                   const UnitScratch& scratch) const;
  void tile_gradients(const Inputs& in, i64 head, const Tile& tile, const QuerySpan& at, A* dk,
                      A* dv, const UnitScratch& scratch) const;

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
    const i64 dim = std::max(shape_.head_dim, shape_.values());
    if constexpr (is_blocked)
      return gemm_.scratch_bytes(std::max({dim, key_columns, query_columns, key_rows}));
    else
      return std::max({gemm_.scratch_bytes(0, std::max(key_columns, query_columns), dim),
                       gemm_.scratch_bytes(0, dim, std::max(key_columns, query_columns)),
                       gemm_.scratch_bytes(query_columns, dim, key_rows)});
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

template <class T>
void Job<T>::pack_keys(const ForwardScratch& scratch, const AttentionSpan& span, i64 kv_head,
                       i64 from, const Tensor& k, const Tensor& v) const {
  if constexpr (is_blocked) {
    const i64 rows = std::min(packed_keys, span.size() - from), row = row_of(span, kv_head);
    const Head<T> key = head_of<T>(k, kv_head, dim_), value = head_of<T>(v, kv_head, value_dim_);
    gemm_.block(scratch.keys + row * wide_ + from / gemm_block * panel_size(dim_), panel_size(dim_),
                {key.row(span.begin + from), key.pitch, true}, dim_, rows);
    gemm_.block(scratch.values + row * value_wide_ + from * gemm_block, panel_size(span.size()),
                {value.row(span.begin + from), value.pitch}, rows, value_dim_);
  }
}

template <class T>
void Job<T>::pack_all_keys(const ForwardScratch& scratch, const Tensor& k, const Tensor& v) const {
  i64 chunks = 0;
  for (const AttentionSpan& span : plan_.k_spans)
    chunks += (span.size() + packed_keys - 1) / packed_keys * shape_.kv_heads;
  workers_.run([&](int worker) {
    const i64 begin = chunks * worker / workers_.count();
    const i64 end = chunks * (worker + 1) / workers_.count();
    i64 chunk = 0;
    for (const AttentionSpan& span : plan_.k_spans)
      for (i64 kv_head = 0; kv_head < shape_.kv_heads; ++kv_head)
        for (i64 from = 0; from < span.size(); from += packed_keys, ++chunk)
          if (chunk >= begin && chunk < end) pack_keys(scratch, span, kv_head, from, k, v);
  });
}

template <class T>
void Job<T>::block_forward(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                           const Tensor& v, i64 head, i64 begin, i64 end,
                           const std::vector<std::size_t>& areas, const ForwardScratch& keys,
                           const BlockScratch& scratch) const {
  const i64 rows = end - begin, kv_head = head / group_;
  const Head<T> query = head_of<T>(q, head, dim_);
  const Head<T> key = head_of<T>(k, kv_head, dim_), value = head_of<T>(v, kv_head, value_dim_);
  std::fill_n(scratch.y, rows * value_dim_, A(0));
  std::fill_n(scratch.top, rows, -std::numeric_limits<A>::infinity());
  std::fill_n(scratch.sum, rows, A(0));
  for (const std::size_t number : areas) {
    const AttentionArea& area = plan_.areas[number];
    const AttentionSpan& span = plan_.k_spans[area.k_span];
    // Columns are counted from the span's first key, and the block's rows from its first.
    const i64 row = begin - area.q_begin, offset = area.k_begin - span.begin;
    const i64 first = offset + area.first_key(row), last = offset + area.last_key(row + rows);
    for (i64 at = first / gemm_block * gemm_block; at < last; at += key_columns) {
      const i64 columns = std::min(key_columns, rounded<T>(last - at));
      const GemmShape scores{rows, columns, dim_}, sums{rows, value_dim_, columns, true};
      if constexpr (is_blocked)
        gemm_.run(scratch.scores, key_columns, query.row(begin), query.pitch,
                  Blocked{keys.keys + row_of(span, kv_head) * wide_, panel_size(dim_)}.from(0, at),
                  scores, scratch.gemm);
      else
        gemm_.run(scratch.scores, key_columns, {query.row(begin), query.pitch},
                  {key.row(span.begin + at), key.pitch, true}, scores, scratch.gemm);
      const i64 left = offset - at, diagonal = left + row;
      const Band band{left, left + area.k_end - area.k_begin, diagonal + area.lowest,
                      diagonal + area.highest + 1};
      rows_.softmax({scratch.scores, scratch.p, key_columns, rows, columns, band, A(shape_.scale),
                     scratch.top, scratch.sum, scratch.y, value_dim_});
      if constexpr (is_blocked)
        gemm_.run(
            scratch.y, value_dim_, scratch.p, key_columns,
            Blocked{keys.values + row_of(span, kv_head) * value_wide_, panel_size(span.size())}
                .from(at, 0),
            sums, scratch.gemm);
      else
        gemm_.run(scratch.y, value_dim_, {scratch.p, key_columns},
                  {value.row(span.begin + at), value.pitch}, sums, scratch.gemm);
    }
  }
  as_written(y, [&]<class Out>(const AttentionRows<Out>& loops) {
    const Head<Out> to = head_of<Out>(y, head, value_dim_);
    loops.divide(to.row(begin), to.pitch, scratch.y, scratch.sum, rows, value_dim_);
  });
  for (i64 r = 0; r < rows; ++r)
    lse.data<A>()[(begin + r) * lse.pitch() + head] = scratch.top[r] + std::log(scratch.sum[r]);
}

template <class T>
void Job<T>::forward(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                     const Tensor& v, std::byte* work) {
  const ForwardScratch keys = forward_scratch(work);
  if (is_blocked) pack_all_keys(keys, k, v);
  const std::vector<AttentionRange> ranges = ranges_of(plan_, q.rows());
  // Later rows see more keys: the longest first.
  struct Unit {
    const AttentionRange* range;
    i64 begin, end, head;
  };
  std::vector<Unit> units;
  for (const AttentionRange& range : ranges)
    for (i64 begin = range.begin; begin < range.end; begin += query_rows)
      for (i64 head = 0; head < shape_.heads; ++head)
        units.push_back({&range, begin, std::min(range.end, begin + query_rows), head});
  workers_.each(std::ssize(units), [&](i64 task, int worker) {
    const BlockScratch scratch =
        block_scratch(work + keys.bytes + std::size_t(worker) * block_scratch(nullptr).bytes);
    const auto& [range, begin, end, head] = units[units.size() - 1 - std::size_t(task)];
    block_forward(y, lse, q, k, v, head, begin, end, range->areas, keys, scratch);
  });
}

template <class T>
void Job<T>::prepare_queries(const Inputs& in, i64 head, const QuerySpan& at,
                             const UnitScratch& scratch) const {
  const i64 begin = at.span->begin, rows = at.span->size(), place = at.place;
  const Head<T> dy = head_of<T>(in.dy, head, value_dim_), y = head_of<T>(in.y, head, value_dim_);
  if constexpr (is_blocked) {
    const Head<T> q = head_of<T>(in.q, head, dim_);
    const auto block = [&](T* blocks, T* turned, const Head<T>& x, i64 dim, i64 wide) {
      gemm_.block(blocks + place * wide, panel_size(rows), {x.row(begin), x.pitch}, rows, dim);
      gemm_.block(turned + place * wide, panel_size(dim), {x.row(begin), x.pitch, true}, dim, rows);
    };
    block(scratch.q_blocks, scratch.q_turned, q, dim_, wide_);
    block(scratch.dy_blocks, scratch.dy_turned, dy, value_dim_, value_wide_);
  }
  const A* from = in.lse.data<A>() + begin * in.lse.pitch() + head;
  for (i64 r = 0; r < rows; ++r) scratch.lse[place + r] = from[r * in.lse.pitch()];
  rows_.dots(scratch.delta + place, dy.row(begin), dy.pitch, y.row(begin), y.pitch, rows,
             value_dim_);
  std::fill_n(scratch.dq + place * dim_, rows * dim_, A(0));
}

// One block of keys with all queries that see it through one area.
template <class T>
void Job<T>::block_backward(const Inputs& in, const KeyBlock& block, const AttentionArea& area,
                            const QuerySpan& at, const UnitScratch& scratch) const {
  const i64 begin = std::max(block.begin, area.k_begin), end = std::min(block.end, area.k_end);
  if (begin >= end) return;
  // Columns are counted from the span's first query, and rows from the area's first key.
  const i64 key = begin - area.k_begin, rows = end - begin;
  const i64 offset = area.q_begin - at.span->begin;
  const i64 first = offset + area.first_query(key), last = offset + area.last_query(key + rows);
  if (first >= last) return;

  const Head<T> k = head_of<T>(in.k, block.head / group_, dim_);
  if constexpr (is_blocked)
    gemm_.block(scratch.k_blocks, panel_size(rows), {k.row(begin), k.pitch}, rows, dim_);
  for (i64 column = first / gemm_block * gemm_block; column < last; column += query_columns) {
    const i64 columns = std::min(query_columns, rounded<T>(last - column));
    const i64 left = offset - column, diagonal = left + key;
    const Tile tile{begin, rows, column, columns};
    tile_scores(in, block.head, tile, at, scratch);
    rows_.undo({scratch.scores,
                scratch.dp,
                scratch.p,
                scratch.dscores,
                query_columns,
                rows,
                columns,
                {left, left + area.q_end - area.q_begin, diagonal - area.highest,
                 diagonal - area.lowest + 1},
                A(shape_.scale),
                scratch.lse + at.place + column,
                scratch.delta + at.place + column});
    const i64 row = begin - block.begin;
    tile_gradients(in, block.head, tile, at, block.dk + row * key_pitch(),
                   block.dv + row * value_pitch(), scratch);
  }
}

// scores = k q' and dp = v dy', without the scale.
template <class T>
void Job<T>::tile_scores(const Inputs& in, i64 head, const Tile& tile, const QuerySpan& at,
                         const UnitScratch& scratch) const {
  const Head<T> k = head_of<T>(in.k, head / group_, dim_),
                v = head_of<T>(in.v, head / group_, value_dim_);
  if constexpr (is_blocked) {
    const auto run = [&](A* to, const Head<T>& keys, const T* turned, i64 dim, i64 wide) {
      const Blocked all{turned + at.place * wide, panel_size(dim)};
      gemm_.run(to, query_columns, keys.row(tile.key), keys.pitch, all.from(0, tile.column),
                {tile.rows, tile.columns, dim}, scratch.gemm);
    };
    run(scratch.scores, k, scratch.q_turned, dim_, wide_);
    run(scratch.dp, v, scratch.dy_turned, value_dim_, value_wide_);
  } else {
    const auto run = [&](A* to, const Head<T>& keys, const Head<T>& queries, i64 dim) {
      gemm_.run(to, query_columns, {keys.row(tile.key), keys.pitch},
                {queries.row(at.span->begin + tile.column), queries.pitch, true},
                {tile.rows, tile.columns, dim}, scratch.gemm);
    };
    run(scratch.scores, k, head_of<T>(in.q, head, dim_), dim_);
    run(scratch.dp, v, head_of<T>(in.dy, head, value_dim_), value_dim_);
  }
}

// dk += dscores q, dv += p dy, and dq += dscores' k.
template <class T>
void Job<T>::tile_gradients(const Inputs& in, i64 head, const Tile& tile, const QuerySpan& at,
                            A* dk, A* dv, const UnitScratch& scratch) const {
  const GemmShape of_keys{tile.rows, dim_, tile.columns, true};
  const GemmShape of_values{tile.rows, value_dim_, tile.columns, true};
  A* dq = scratch.dq + (at.place + tile.column) * dim_;
  if constexpr (is_blocked) {
    const auto run = [&](A* to, i64 pitch, const T* scores, const T* blocks, i64 wide,
                         const GemmShape& shape) {
      const Blocked all{blocks + at.place * wide, panel_size(at.span->size())};
      gemm_.run(to, pitch, scores, query_columns, all.from(tile.column, 0), shape, scratch.gemm);
    };
    run(dk, key_pitch(), scratch.dscores, scratch.q_blocks, wide_, of_keys);
    run(dv, value_pitch(), scratch.p, scratch.dy_blocks, value_wide_, of_values);
    gemm_.transpose(scratch.dscores_turned, key_rows, scratch.dscores, query_columns, tile.rows,
                    tile.columns);
    gemm_.run(dq, dim_, scratch.dscores_turned, key_rows,
              Blocked{scratch.k_blocks, panel_size(tile.rows)},
              {tile.columns, dim_, in_blocks(tile.rows), true}, scratch.gemm);
  } else {
    const i64 row = at.span->begin + tile.column;
    const Head<T> q = head_of<T>(in.q, head, dim_), dy = head_of<T>(in.dy, head, value_dim_);
    const Head<T> k = head_of<T>(in.k, head / group_, dim_);
    gemm_.run(dk, key_pitch(), {scratch.dscores, query_columns}, {q.row(row), q.pitch}, of_keys,
              scratch.gemm);
    gemm_.run(dv, value_pitch(), {scratch.p, query_columns}, {dy.row(row), dy.pitch}, of_values,
              scratch.gemm);
    gemm_.run(dq, dim_, {scratch.dscores, query_columns, true}, {k.row(tile.key), k.pitch},
              {tile.columns, dim_, tile.rows, true}, scratch.gemm);
  }
}

template <class T>
void Job<T>::unit_backward(const Tensor& dq, const Inputs& in, const AttentionComponent& component,
                           i64 head, bool is_first, A* dk, A* dv,
                           const UnitScratch& scratch) const {
  std::vector<QuerySpan> queries;
  i64 place = 0;
  for (const std::size_t number : component.q_spans) {
    queries.push_back({&plan_.q_spans[number], place});
    prepare_queries(in, head, queries.back(), scratch);
    place += in_blocks(plan_.q_spans[number].size());
  }
  const auto query_span_of = [&](const AttentionArea& area) {
    const auto found =
        std::lower_bound(component.q_spans.begin(), component.q_spans.end(), area.q_span);
    return queries[std::size_t(found - component.q_spans.begin())];
  };
  for (const std::size_t number : component.k_spans) {
    const AttentionSpan& span = plan_.k_spans[number];
    for (i64 begin = span.begin; begin < span.end; begin += key_rows) {
      const i64 kv_head = head / group_;
      const KeyBlock block{head, begin, std::min(span.end, begin + key_rows),
                           dk + begin * key_pitch() + kv_head * dim_,
                           dv + begin * value_pitch() + kv_head * value_dim_};
      if (is_first)
        for (i64 r = 0; r < block.end - begin; ++r) {
          std::fill_n(block.dk + r * key_pitch(), dim_, A(0));
          std::fill_n(block.dv + r * value_pitch(), value_dim_, A(0));
        }
      for (const std::size_t area : component.areas)
        if (plan_.areas[area].k_span == number)
          block_backward(in, block, plan_.areas[area], query_span_of(plan_.areas[area]), scratch);
    }
  }
  as_written(dq, [&]<class Out>(const AttentionRows<Out>& loops) {
    const Head<Out> to = head_of<Out>(dq, head, dim_);
    for (const QuerySpan& at : queries)
      for (i64 r = 0; r < at.span->size(); ++r)
        loops.add(to.row(at.span->begin + r), scratch.dq + (at.place + r) * dim_, 1, 0, dim_);
  });
}

// f(begin, end, is_inside) for [0, rows), in and out of the spans.
template <class F>
void each_run(const std::vector<AttentionSpan>& spans, i64 rows, F f) {
  i64 at = 0;
  for (const AttentionSpan& span : spans) {
    if (at < span.begin) f(at, span.begin, false);
    f(span.begin, span.end, true);
    at = span.end;
  }
  if (at < rows) f(at, rows, false);
}

// Zeros of any floating type are zero bytes.
void clear_rows(const Tensor& x, i64 begin, i64 end) {
  const i64 width = i64(size_of(x.dtype()));
  for (i64 r = begin; r < end; ++r)
    std::memset(static_cast<std::byte*>(x.raw()) + r * x.pitch() * width, 0,
                std::size_t(x.columns() * width));
}

template <class T>
void Job<T>::backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Inputs& in,
                      std::byte* work) {
  const SumsScratch sums = sums_scratch(work, in.k.rows());
  const i64 heads_of_unit = group_ / splits();
  const i64 units_each = shape_.heads / heads_of_unit;
  workers_.each(std::ssize(plan_.components) * units_each, [&](i64 task, int worker) {
    const UnitScratch scratch =
        unit_scratch(work + sums.bytes + std::size_t(worker) * unit_scratch(nullptr).bytes);
    const AttentionComponent& component = plan_.components[std::size_t(task / units_each)];
    const i64 first = task % units_each * heads_of_unit, split = first % group_ / heads_of_unit;
    for (i64 head = first; head < first + heads_of_unit; ++head)
      unit_backward(dq, in, component, head, head == first, sums.dk + split * sums.key_step,
                    sums.dv + split * sums.value_step, scratch);
  });
  const auto put = [&](const Tensor& to, const A* from, i64 step, i64 pitch, i64 begin, i64 end) {
    as_written(to, [&]<class Out>(const AttentionRows<Out>& loops) {
      for (i64 r = begin; r < end; ++r)
        loops.add(to.data<Out>() + r * to.pitch(), from + r * pitch, splits(), step, pitch);
    });
  };
  workers_.split(in.k.rows(), 1, [&](i64 from, i64 to, int) {
    each_run(plan_.k_spans, in.k.rows(), [&](i64 begin, i64 end, bool is_inside) {
      begin = std::max(begin, from);
      end = std::min(end, to);
      if (!is_inside) {
        clear_rows(dk, begin, end);
        clear_rows(dv, begin, end);
        return;
      }
      put(dk, sums.dk, sums.key_step, key_pitch(), begin, end);
      put(dv, sums.dv, sums.value_step, value_pitch(), begin, end);
    });
  });
  each_run(plan_.q_spans, dq.rows(), [&](i64 begin, i64 end, bool is_inside) {
    if (!is_inside) clear_rows(dq, begin, end);
  });
}

}  // namespace

struct AttentionKernels::State {
  Workers& workers;
  Isa isa = Isa::base;
  Gemm<double> doubles{isa};
  Gemm<float> singles{isa};
  Bf16Gemm halves{isa};

  // f(job) with the job of the element type.
  template <class F>
  auto with(DType type, std::span<const Area> areas, const AttentionShape& shape, F f) {
    if (type == DType::f64) return f(Job<double>(workers, doubles, isa, areas, shape));
    if (type == DType::f32) return f(Job<float>(workers, singles, isa, areas, shape));
    return f(Job<Bf16>(workers, halves, isa, areas, shape));
  }
};

AttentionKernels::AttentionKernels(Workers& workers, Isa isa) : state_(new State{workers, isa}) {}

AttentionKernels::~AttentionKernels() = default;

std::size_t AttentionKernels::attention_workspace(const Tensor& q, const Tensor& /*k*/,
                                                  std::span<const Area> areas,
                                                  const AttentionShape& shape) {
  return state_->with(q.dtype(), areas, shape, [](auto&& job) { return job.forward_bytes(); });
}

void AttentionKernels::attention(const Tensor& y, const Tensor& lse, const Tensor& q,
                                 const Tensor& k, const Tensor& v, std::span<const Area> areas,
                                 const AttentionShape& shape, const Tensor& work) {
  state_->with(q.dtype(), areas, shape,
               [&](auto&& job) { job.forward(y, lse, q, k, v, bytes_of(work)); });
}

std::size_t AttentionKernels::attention_backward_workspace(const Tensor& q, const Tensor& k,
                                                           std::span<const Area> areas,
                                                           const AttentionShape& shape) {
  return state_->with(q.dtype(), areas, shape,
                      [&](auto&& job) { return job.backward_bytes(k.rows()); });
}

void AttentionKernels::attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                          const Tensor& dy, const Tensor& y, const Tensor& lse,
                                          const Tensor& q, const Tensor& k, const Tensor& v,
                                          std::span<const Area> areas, const AttentionShape& shape,
                                          const Tensor& work) {
  state_->with(q.dtype(), areas, shape, [&](auto&& job) {
    job.backward(dq, dk, dv, {dy, y, lse, q, k, v}, bytes_of(work));
  });
}

}  // namespace pf
