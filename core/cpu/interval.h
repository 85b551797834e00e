// A run of rows or columns.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pf {

struct Interval {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

inline Interval common(Interval a, Interval b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

}  // namespace pf
