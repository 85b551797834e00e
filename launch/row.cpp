#include "launch/row.h"

#include <algorithm>
#include <cassert>
#include <cstddef>

namespace pf {

void Row::append(Range range) {
  if (range.begin == range.end) return;
  if (!ranges_.empty() && ranges_.back().end == range.begin) {
    ranges_.back().end = range.end;
  } else {
    ranges_.push_back(range);
    places_.push_back(size_);
  }
  size_ += range.end - range.begin;
}

std::vector<Range> Row::part(std::uint64_t from, std::uint64_t count) const {
  assert(from + count <= size_);
  std::vector<Range> parts;
  if (count == 0) return parts;
  auto r = static_cast<std::size_t>(std::ranges::upper_bound(places_, from) - places_.begin() - 1);
  for (std::uint64_t left = count; left > 0; ++r) {
    const std::uint64_t begin = ranges_[r].begin + (from - places_[r]);
    const std::uint64_t taken = std::min(left, ranges_[r].end - begin);
    parts.push_back({begin, begin + taken});
    from += taken;
    left -= taken;
  }
  return parts;
}

}  // namespace pf
