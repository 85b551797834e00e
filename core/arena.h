// Where a device's blocks lie: blocks of all sizes share the same memory.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace pf {

class Backend;

// Takes memory from the backend as it is first needed and keeps it. A block goes to the smallest
// hole that it fits into, of those to the one with the lowest address, else behind all blocks; so
// the same calls give the same places. A program built with the address sanitizer complains about
// accesses outside of blocks.
class Arena {
 public:
  // Takes at most `limit` bytes; 0: as many as there are. The backend outlives it.
  explicit Arena(Backend& backend, std::size_t limit = 0) : backend_(&backend), limit_(limit) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned; null when memory or the limit is out. bytes > 0.
  void* allocate(std::size_t bytes);
  void release(void* block, std::size_t bytes);

  // What the backend was asked for: blocks and holes.
  std::size_t held() const { return held_; }

 private:
  // Of addresses; the first `used` bytes have memory.
  struct Range {
    std::byte* begin = nullptr;
    std::size_t bytes = 0, used = 0;
  };
  using Holes = std::map<std::byte*, std::size_t>;

  void add_hole(std::byte* begin, std::size_t bytes);
  void remove_hole(Holes::iterator hole);
  std::byte* grow(std::size_t bytes);
  bool commit(Range& range, std::size_t bytes);
  bool begins_range(const std::byte* address) const;

  Backend* backend_;
  std::size_t limit_, held_ = 0;
  std::vector<Range> ranges_;
  Holes holes_;  // none touches another of its range
  std::set<std::pair<std::size_t, std::byte*>> by_size_;
};

}  // namespace pf
