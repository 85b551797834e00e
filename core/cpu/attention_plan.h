// Which blocks of an attention hang together, from its list of areas.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/backend.h"

namespace pf {

// Rows [begin, end) of q, or of k: ranges of areas that overlap, joined.
struct AttentionSpan {
  std::int64_t begin = 0, end = 0;
  std::int64_t place = 0;  // of the first row among all spans', each rounded up to blocks of 32
  std::int64_t size() const { return end - begin; }
};

// An area with the diagonals that bound it: row i sees column j of the area if
// lowest <= j - i <= highest.
struct AttentionArea {
  std::int64_t q_begin, q_end, k_begin, k_end;
  std::int64_t lowest, highest;
  std::size_t q_span, k_span;

  // What rows [begin, end) of the area see, and what sees its columns [begin, end).
  std::int64_t first_key(std::int64_t begin) const;
  std::int64_t last_key(std::int64_t end) const;
  std::int64_t first_query(std::int64_t begin) const;
  std::int64_t last_query(std::int64_t end) const;
  double cells() const;  // about
};

// Areas that share no row of q and no row of k with others. Their numbers in the plan.
struct AttentionComponent {
  std::vector<std::size_t> q_spans, k_spans, areas;
  std::int64_t q_rows = 0, k_rows = 0;  // in spans rounded up to blocks of 32
  double cost = 0;
};

struct AttentionPlan {
  explicit AttentionPlan(std::span<const Area> areas);

  std::vector<AttentionArea> areas;  // by q_begin; none is empty
  std::vector<AttentionSpan> q_spans, k_spans;
  std::vector<AttentionComponent> components;  // the costliest first
};

// Rows of q that see the same areas.
struct AttentionRange {
  std::int64_t begin = 0, end = 0;
  std::vector<std::size_t> areas;
};
// All rows, in order.
std::vector<AttentionRange> ranges_of(const AttentionPlan& plan, std::int64_t rows);

}  // namespace pf
