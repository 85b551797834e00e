#include <cstring>

#include "core/cpu/attention_job.h"

namespace pf::cpu_attention {
namespace {

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

}  // namespace

template <class T>
void Job<T>::prepare_queries(const Inputs& in, i64 head, const QuerySpan& at,
                             const UnitScratch& scratch) const {
  const i64 begin = at.span->begin, rows = at.span->size(), place = at.place;
  const HeadRows<T> dy = head_of<T>(in.dy, head, value_dim_),
                    y = head_of<T>(in.y, head, value_dim_);
  const HeadRows<T> q = head_of<T>(in.q, head, dim_);
  const auto pack = [&](T* plain, T* turned, const HeadRows<T>& x, i64 dim, i64 wide) {
    gemm_.pack(gemm_.panels(plain + place * wide, rows), {x.row(begin), x.pitch}, rows, dim);
    gemm_.pack(gemm_.panels(turned + place * wide, dim), {x.row(begin), x.pitch, true}, dim, rows);
  };
  pack(scratch.q, scratch.q_turned, q, dim_, wide_);
  pack(scratch.dy, scratch.dy_turned, dy, value_dim_, value_wide_);
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

  const HeadRows<T> k = head_of<T>(in.k, block.head / group_, dim_);
  gemm_.pack(gemm_.panels(scratch.k, rows), {k.row(begin), k.pitch}, rows, dim_);
  for (i64 column = first / gemm_block * gemm_block; column < last; column += query_columns) {
    const i64 columns = std::min(query_columns, rounded<T>(last - column));
    const i64 left = offset - column, diagonal = left + key;
    const Band band{left, left + area.q_end - area.q_begin, diagonal - area.highest,
                    diagonal - area.lowest + 1};
    const Tile tile{begin, rows, column, columns, band};
    tile_scores(in, block.head, tile, at, scratch);
    rows_.undo({scratch.scores, scratch.dp, scratch.p, scratch.dscores, query_columns, rows,
                columns, band, A(shape_.scale), scratch.lse + at.place + column,
                scratch.delta + at.place + column});
    const i64 row = begin - block.begin;
    tile_gradients(tile, at, block.dk + row * key_pitch(), block.dv + row * value_pitch(), scratch);
  }
}

// scores = k q' and dp = v dy', without the scale.
template <class T>
void Job<T>::tile_scores(const Inputs& in, i64 head, const Tile& tile, const QuerySpan& at,
                         const UnitScratch& scratch) const {
  const HeadRows<T> k = head_of<T>(in.k, head / group_, dim_),
                    v = head_of<T>(in.v, head / group_, value_dim_);
  const auto run = [&](A* to, const HeadRows<T>& keys, T* turned, i64 dim, i64 wide) {
    const Panels<T> queries = gemm_.panels(turned + at.place * wide, dim).from(0, tile.column);
    each_columns(
        tile.band, tile.rows, tile.columns, queries.width, [&](Interval of_keys, Interval some) {
          gemm_.run(to + of_keys.begin * query_columns + some.begin, query_columns,
                    {keys.row(tile.key + of_keys.begin), keys.pitch}, queries.from(0, some.begin),
                    {of_keys.size(), some.size(), dim}, scratch.gemm);
        });
  };
  run(scratch.scores, k, scratch.q_turned, dim_, wide_);
  run(scratch.dp, v, scratch.dy_turned, value_dim_, value_wide_);
}

// dk += dscores q, dv += p dy, and dq += dscores' k.
template <class T>
void Job<T>::tile_gradients(const Tile& tile, const QuerySpan& at, A* dk, A* dv,
                            const UnitScratch& scratch) const {
  const auto run = [&](A* to, i64 pitch, const T* scores, T* plain, i64 dim, i64 wide) {
    const Panels<T> queries =
        gemm_.panels(plain + at.place * wide, at.span->size()).from(tile.column, 0);
    each_rows(tile.band, tile.rows, tile.columns, row_step<T>, [&](Interval some, Interval seen) {
      const Interval of_queries = rounded<T>(seen);
      gemm_.run(to + some.begin * pitch, pitch,
                {scores + some.begin * query_columns + of_queries.begin, query_columns},
                queries.from(of_queries.begin, 0), {some.size(), dim, of_queries.size(), true},
                scratch.gemm);
    });
  };
  run(dk, key_pitch(), scratch.dscores, scratch.q, dim_, wide_);
  run(dv, value_pitch(), scratch.p, scratch.dy, value_dim_, value_wide_);

  Matrix<T> turned{scratch.dscores, query_columns, true};
  if constexpr (is_blocked) {
    gemm_.transpose(scratch.dscores_turned, key_rows, scratch.dscores, query_columns, tile.rows,
                    tile.columns);
    turned = {scratch.dscores_turned, key_rows};
  }
  A* dq = scratch.dq + (at.place + tile.column) * dim_;
  const Panels<T> keys = gemm_.panels(scratch.k, tile.rows);
  each_columns(tile.band, tile.rows, tile.columns, row_step<T>, [&](Interval seen, Interval some) {
    const Interval of_keys = rounded<T>(seen);
    gemm_.run(dq + some.begin * dim_, dim_, turned.from(some.begin, of_keys.begin),
              keys.from(of_keys.begin, 0), {some.size(), dim_, of_keys.size(), true}, scratch.gemm);
  });
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
    const HeadRows<Out> to = head_of<Out>(dq, head, dim_);
    for (const QuerySpan& at : queries)
      for (i64 r = 0; r < at.span->size(); ++r)
        loops.add(to.row(at.span->begin + r), scratch.dq + (at.place + r) * dim_, 1, 0, dim_);
  });
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

template void Job<double>::backward(const Tensor&, const Tensor&, const Tensor&, const Inputs&,
                                    std::byte*);
template void Job<float>::backward(const Tensor&, const Tensor&, const Tensor&, const Inputs&,
                                   std::byte*);
template void Job<Bf16>::backward(const Tensor&, const Tensor&, const Tensor&, const Inputs&,
                                  std::byte*);

}  // namespace pf::cpu_attention
