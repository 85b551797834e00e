// Ranges of positions that are read as one.
#pragma once

#include <cstdint>
#include <vector>

namespace pf {

struct Range {
  std::uint64_t begin = 0, end = 0;

  bool operator==(const Range&) const = default;
};

class Row {
 public:
  void append(Range range);  // one that begins where the last one ends makes that longer
  const std::vector<Range>& ranges() const { return ranges_; }
  std::uint64_t size() const { return size_; }  // positions

  // Windows start every `sequence` positions and have one more, the last target, which is also the
  // next window's first position.
  std::uint64_t windows(std::uint64_t sequence) const {
    return size_ > sequence ? (size_ - 1) / sequence : 0;
  }
  // The positions at places [from, from + count) of the row, in time O(log of ranges).
  std::vector<Range> part(std::uint64_t from, std::uint64_t count) const;

 private:
  std::vector<Range> ranges_;
  std::vector<std::uint64_t> places_;  // of each range's begin in the row
  std::uint64_t size_ = 0;
};

}  // namespace pf
