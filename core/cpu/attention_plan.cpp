#include "core/cpu/attention_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/cpu/bf16_gemm.h"

namespace pf {
namespace {

constexpr std::int64_t unbounded = std::numeric_limits<std::int64_t>::max() / 4;

struct Ends {
  std::int64_t begin, end;
};

// Joins overlapping ranges; writes each one's span to span_of.
template <class SpanOf>
std::vector<AttentionSpan> spans_of(const std::vector<Ends>& ranges, SpanOf span_of) {
  std::vector<std::size_t> order(ranges.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return ranges[a].begin < ranges[b].begin; });
  std::vector<AttentionSpan> spans;
  for (const std::size_t i : order) {
    if (spans.empty() || ranges[i].begin >= spans.back().end)
      spans.push_back({ranges[i].begin, ranges[i].end, 0});
    spans.back().end = std::max(spans.back().end, ranges[i].end);
    span_of(i) = spans.size() - 1;
  }
  std::int64_t place = 0;
  for (AttentionSpan& span : spans) {
    span.place = place;
    place += in_blocks(span.size());
  }
  return spans;
}

// Root of a tree of a union-find, with halved paths.
std::size_t root(std::vector<std::size_t>& parents, std::size_t i) {
  while (parents[i] != i) i = parents[i] = parents[parents[i]];
  return i;
}

AttentionArea bounded(const Area& area) {
  const bool below = area.kind == Area::Kind::causal || area.kind == Area::Kind::both;
  const bool above = area.kind == Area::Kind::inverse_causal || area.kind == Area::Kind::both;
  const std::int64_t corner = (area.k_end - area.k_begin) - (area.q_end - area.q_begin);
  return {area.q_begin,
          area.q_end,
          area.k_begin,
          area.k_end,
          above ? 0 : -unbounded,
          below ? corner : unbounded,
          0,
          0};
}

}  // namespace

std::int64_t AttentionArea::first_key(std::int64_t begin) const {
  return std::clamp<std::int64_t>(begin + lowest, 0, k_end - k_begin);
}
std::int64_t AttentionArea::last_key(std::int64_t end) const {
  return std::clamp<std::int64_t>(end + highest, 0, k_end - k_begin);
}
std::int64_t AttentionArea::first_query(std::int64_t begin) const {
  return std::clamp<std::int64_t>(begin - highest, 0, q_end - q_begin);
}
std::int64_t AttentionArea::last_query(std::int64_t end) const {
  return std::clamp<std::int64_t>(end - lowest, 0, q_end - q_begin);
}

double AttentionArea::cells() const {
  // By the trapezoids between the diagonals, from eight rows.
  const std::int64_t rows = q_end - q_begin;
  double cells = 1;  // never nothing: what sees nothing is still to be set to zero
  for (int i = 0; i < 8; ++i) {
    const std::int64_t row = rows * (2 * i + 1) / 16;
    cells +=
        double(std::max<std::int64_t>(0, last_key(row + 1) - first_key(row))) * double(rows) / 8;
  }
  return cells;
}

AttentionPlan::AttentionPlan(std::span<const Area> all) {
  for (const Area& area : all)
    if (area.q_begin < area.q_end && area.k_begin < area.k_end) areas.push_back(bounded(area));
  std::stable_sort(areas.begin(), areas.end(), [](const AttentionArea& a, const AttentionArea& b) {
    return a.q_begin < b.q_begin;
  });
  std::vector<Ends> q_ranges, k_ranges;
  for (const AttentionArea& area : areas) {
    q_ranges.push_back({area.q_begin, area.q_end});
    k_ranges.push_back({area.k_begin, area.k_end});
  }
  q_spans = spans_of(
      q_ranges, [this](std::size_t i) -> auto& { return areas[i].q_span; });
  k_spans = spans_of(
      k_ranges, [this](std::size_t i) -> auto& { return areas[i].k_span; });

  // Spans of q, then spans of k, joined by the areas.
  std::vector<std::size_t> parents(q_spans.size() + k_spans.size());
  std::iota(parents.begin(), parents.end(), std::size_t(0));
  for (const AttentionArea& area : areas)
    parents[root(parents, q_spans.size() + area.k_span)] = root(parents, area.q_span);
  std::vector<std::size_t> number(parents.size());
  const auto component_of = [&](std::size_t i) -> AttentionComponent& {
    return components[number[root(parents, i)]];
  };
  for (std::size_t i = 0; i < parents.size(); ++i)
    if (root(parents, i) == i) {
      number[i] = components.size();
      components.emplace_back();
    }
  for (std::size_t i = 0; i < q_spans.size(); ++i) {
    component_of(i).q_spans.push_back(i);
    component_of(i).q_rows += in_blocks(q_spans[i].size());
  }
  for (std::size_t i = 0; i < k_spans.size(); ++i) {
    component_of(q_spans.size() + i).k_spans.push_back(i);
    component_of(q_spans.size() + i).k_rows += in_blocks(k_spans[i].size());
  }
  for (std::size_t i = 0; i < areas.size(); ++i) {
    component_of(areas[i].q_span).areas.push_back(i);
    component_of(areas[i].q_span).cost += areas[i].cells();
  }
}

std::vector<AttentionRange> ranges_of(const AttentionPlan& plan, std::int64_t rows) {
  std::vector<std::int64_t> cuts{0, rows};
  for (const AttentionArea& area : plan.areas) {
    cuts.push_back(area.q_begin);
    cuts.push_back(area.q_end);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::vector<AttentionRange> ranges;
  std::vector<std::size_t> open;
  std::size_t next = 0;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    while (next < plan.areas.size() && plan.areas[next].q_begin == cuts[i]) open.push_back(next++);
    std::erase_if(open, [&](std::size_t a) { return plan.areas[a].q_end <= cuts[i]; });
    ranges.push_back({cuts[i], cuts[i + 1], open});
  }
  return ranges;
}

}  // namespace pf
