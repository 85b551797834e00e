#include "models/context_parallel.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/error.h"

namespace pf {
namespace {

// Appends the tokens [begin, end) as the next rows.
void append(std::vector<RowRange>& ranges, std::int64_t begin, std::int64_t end) {
  std::int64_t row = 0;
  if (!ranges.empty()) row = ranges.back().row + ranges.back().size();
  if (!ranges.empty() && ranges.back().end == begin)
    ranges.back().end = end;
  else
    ranges.push_back({begin, end, row});
}

void append_rank(std::vector<RowRange>& ranges, std::int64_t sequences, std::int64_t length,
                 std::int64_t rank, std::int64_t cp) {
  const std::int64_t chunk = chunk_of(length, cp);
  for (std::int64_t s = 0; s < sequences; ++s) {
    if (cp == 1) {
      append(ranges, s * length, (s + 1) * length);
      continue;
    }
    for (const std::int64_t c : {rank, 2 * cp - 1 - rank})
      append(ranges, s * length + c * chunk, s * length + (c + 1) * chunk);
  }
}

Tensor rows_of(const Tensor& x, std::span<const RowRange> ranges) {
  Tensor y =
      Tensor::empty({ranges.back().row + ranges.back().size()}, x.dtype(), x.device(), x.label());
  if (x.is_meta()) return y;
  require(x.device().kind() == DeviceKind::cpu, "batch: ", x.text(), " is cut on a GPU");
  const std::size_t width = size_of(x.dtype());
  for (const RowRange& range : ranges)
    std::memcpy(static_cast<std::byte*>(y.raw()) + std::size_t(range.row) * width,
                static_cast<const std::byte*>(x.raw()) + std::size_t(range.begin) * width,
                std::size_t(range.size()) * width);
  return y;
}

// The part of an area whose tokens are in one run of queries and one of keys. Query i sees the keys
// [i + lowest, i + highest]; where a bound leaves the run of keys, the rectangle's kind changes.
void append_part(std::vector<Area>& out, const Area& area, const RowRange& q, const RowRange& k) {
  using Kind = Area::Kind;
  const std::int64_t q_begin = std::max(area.q_begin, q.begin), q_end = std::min(area.q_end, q.end);
  const std::int64_t k_begin = std::max(area.k_begin, k.begin), k_end = std::min(area.k_end, k.end);
  if (q_begin >= q_end || k_begin >= k_end) return;
  const bool is_below = area.kind == Kind::causal || area.kind == Kind::both;
  const bool is_above = area.kind == Kind::inverse_causal || area.kind == Kind::both;
  const std::int64_t highest = area.k_end - area.q_end, lowest = area.k_begin - area.q_begin;
  // Queries that see something, and where the bounds begin and cease to matter.
  const std::int64_t first = is_below ? std::max(q_begin, k_begin - highest) : q_begin;
  const std::int64_t last = is_above ? std::min(q_end, k_end - lowest) : q_end;
  const std::int64_t unbounded_below = is_below ? k_end - highest : q_begin;
  const std::int64_t bounded_above = is_above ? k_begin - lowest : q_end;
  std::vector<std::int64_t> ends{unbounded_below, bounded_above, last};
  std::ranges::sort(ends);
  std::int64_t begin = first;
  for (std::int64_t end : ends) {
    end = std::min(end, last);
    if (end <= begin) continue;
    const bool causal = begin < unbounded_below, inverse = begin >= bounded_above;
    const std::int64_t from = inverse ? begin + lowest : k_begin;
    const std::int64_t to = causal ? end + highest : k_end;
    const Kind kind = causal ? (inverse ? Kind::both : Kind::causal)
                             : (inverse ? Kind::inverse_causal : Kind::full);
    out.push_back({begin - q.begin + q.row, end - q.begin + q.row, from - k.begin + k.row,
                   to - k.begin + k.row, kind});
    begin = end;
  }
}

}  // namespace

std::int64_t chunk_of(std::int64_t length, std::int64_t cp) {
  return cp == 1 ? length : length / (2 * cp);
}

std::int64_t length_unit(std::int64_t tp, std::int64_t cp) {
  return cp == 1 ? tp : cp * std::lcm(tp, std::int64_t{2});
}

std::vector<RowRange> rows_of_rank(std::int64_t sequences, std::int64_t length, const Mesh& mesh) {
  const std::int64_t cp = mesh.size(axes::cp);
  require(cp == 1 || length % (2 * cp) == 0, "batch: sequences of ", length,
          " tokens over cp = ", cp, "; wanted a multiple of 2 cp = ", 2 * cp);
  std::vector<RowRange> ranges;
  append_rank(ranges, sequences, length, mesh.coordinate(axes::cp), cp);
  return ranges;
}

std::vector<RowRange> rows_of_all(std::int64_t sequences, std::int64_t length, const Mesh& mesh) {
  const std::int64_t cp = mesh.size(axes::cp);
  std::vector<RowRange> ranges;
  for (std::int64_t rank = 0; rank < cp; ++rank) append_rank(ranges, sequences, length, rank, cp);
  return ranges;
}

std::vector<RowRange> rows_between(std::span<const RowRange> ranges, std::int64_t begin,
                                   std::int64_t end) {
  std::vector<RowRange> out;
  for (const RowRange& range : ranges) {
    const std::int64_t first = std::max(begin, range.row);
    const std::int64_t last = std::min(end, range.row + range.size());
    if (first < last)
      out.push_back(
          {range.begin + first - range.row, range.begin + last - range.row, first - begin});
  }
  return out;
}

Batch cut_over_cp(const Batch& whole, const Mesh& mesh) {
  Batch batch = whole;
  batch.queries = rows_of_rank(whole.sequences, whole.length, mesh);
  batch.keys = rows_of_all(whole.sequences, whole.length, mesh);
  if (mesh.size(axes::cp) == 1) return batch;
  for (Tensor* x : {&batch.ids, &batch.targets, &batch.mask, &batch.present, &batch.position,
                    &batch.token, &batch.sequence})
    *x = rows_of(*x, batch.queries);
  return batch;
}

std::vector<Area> areas_in_rows(std::span<const Area> areas, std::span<const RowRange> queries,
                                std::span<const RowRange> keys) {
  std::vector<Area> out;
  for (const Area& area : areas)
    for (const RowRange& q : queries)
      for (const RowRange& k : keys) append_part(out, area, q, k);
  return out;
}

std::vector<std::vector<Area>> areas_in_ring(std::span<const Area> areas, const Batch& batch,
                                             const Mesh& mesh, int neighbours) {
  const int places = mesh.size(axes::cp) / neighbours;
  const std::int64_t rows = (batch.keys.back().row + batch.keys.back().size()) / places;
  const auto at = [&](std::int64_t place) {
    return rows_between(batch.keys, place * rows, (place + 1) * rows);
  };
  const std::vector<RowRange> queries = at(mesh.coordinate(axes::cp) / neighbours);
  std::vector<std::vector<Area>> out;
  out.reserve(std::size_t(places));
  for (int place = 0; place < places; ++place)
    out.push_back(areas_in_rows(areas, queries, at(place)));
  return out;
}

}  // namespace pf
