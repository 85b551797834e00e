#include <cmath>
#include <limits>

#include "core/cpu/attention_job.h"

namespace pf::cpu_attention {
namespace {

constexpr i64 packed_keys = 256;  // that are packed at a time

}  // namespace

template <class T>
void Job<T>::pack_keys(const ForwardScratch& scratch, const AttentionSpan& span, i64 kv_head,
                       i64 from, const Tensor& k, const Tensor& v) const {
  const i64 rows = std::min(packed_keys, span.size() - from);
  const HeadRows<T> key = head_of<T>(k, kv_head, dim_), value = head_of<T>(v, kv_head, value_dim_);
  gemm_.pack(keys_of(scratch, span, kv_head).from(0, from),
             {key.row(span.begin + from), key.pitch, true}, dim_, rows);
  gemm_.pack(values_of(scratch, span, kv_head).from(from, 0),
             {value.row(span.begin + from), value.pitch}, rows, value_dim_);
}

template <class T>
void Job<T>::pack_all_keys(const ForwardScratch& scratch, const Tensor& k, const Tensor& v) const {
  struct Chunk {
    const AttentionSpan* span;
    i64 kv_head, from;
  };
  std::vector<Chunk> chunks;
  for (const AttentionSpan& span : plan_.k_spans)
    for (i64 kv_head = 0; kv_head < shape_.kv_heads; ++kv_head)
      for (i64 from = 0; from < span.size(); from += packed_keys)
        chunks.push_back({&span, kv_head, from});
  workers_.each(std::ssize(chunks), [&](i64 i, int) {
    const auto& [span, kv_head, from] = chunks[std::size_t(i)];
    pack_keys(scratch, *span, kv_head, from, k, v);
  });
}

template <class T>
void Job<T>::block_forward(const Tensor& y, const Tensor& lse, const Tensor& q, i64 head, i64 begin,
                           i64 end, const std::vector<std::size_t>& areas,
                           const ForwardScratch& keys, const BlockScratch& scratch) const {
  const i64 rows = end - begin, kv_head = head / group_;
  const HeadRows<T> query = head_of<T>(q, head, dim_);
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
      const i64 left = offset - at, diagonal = left + row;
      const Band band{left, left + area.k_end - area.k_begin, diagonal + area.lowest,
                      diagonal + area.highest + 1};
      const Panels<T> key = keys_of(keys, span, kv_head).from(0, at);
      each_columns(band, rows, columns, key.width, [&](Interval some, Interval of_keys) {
        gemm_.run(scratch.scores + some.begin * key_columns + of_keys.begin, key_columns,
                  {query.row(begin + some.begin), query.pitch}, key.from(0, of_keys.begin),
                  {some.size(), of_keys.size(), dim_}, scratch.gemm);
      });
      rows_.softmax({scratch.scores, scratch.p, key_columns, rows, columns, band, A(shape_.scale),
                     scratch.top, scratch.sum, scratch.y, value_dim_});
      const Panels<T> value = values_of(keys, span, kv_head).from(at, 0);
      each_rows(band, rows, columns, row_step<T>, [&](Interval some, Interval seen) {
        const Interval of_keys = rounded<T>(seen);
        gemm_.run(scratch.y + some.begin * value_dim_, value_dim_,
                  {scratch.p + some.begin * key_columns + of_keys.begin, key_columns},
                  value.from(of_keys.begin, 0), {some.size(), value_dim_, of_keys.size(), true},
                  scratch.gemm);
      });
    }
  }
  as_written(y, [&]<class Out>(const AttentionRows<Out>& loops) {
    const HeadRows<Out> to = head_of<Out>(y, head, value_dim_);
    loops.divide(to.row(begin), to.pitch, scratch.y, scratch.sum, rows, value_dim_);
  });
  for (i64 r = 0; r < rows; ++r)
    lse.data<A>()[(begin + r) * lse.pitch() + head] = scratch.top[r] + std::log(scratch.sum[r]);
}

template <class T>
void Job<T>::forward(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                     const Tensor& v, std::byte* work) {
  const ForwardScratch keys = forward_scratch(work);
  pack_all_keys(keys, k, v);
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
    block_forward(y, lse, q, head, begin, end, range->areas, keys, scratch);
  });
}

template void Job<double>::forward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                   const Tensor&, std::byte*);
template void Job<float>::forward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                  const Tensor&, std::byte*);
template void Job<Bf16>::forward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&, std::byte*);

}  // namespace pf::cpu_attention
