#include "core/arena.h"

#include <algorithm>
#include <iterator>

#include "core/aligned.h"
#include "core/backend.h"

// Of the address sanitizer, null in programs without it.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" {
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* begin, std::size_t bytes);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* begin, std::size_t bytes);
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace pf {
namespace {

void forbid(const std::byte* begin, std::size_t bytes) {
  if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(begin, bytes);
}

void allow(const std::byte* begin, std::size_t bytes) {
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(begin, bytes);
}

}  // namespace

Arena::~Arena() {
  for (const Range& range : ranges_) {
    allow(range.begin, range.used);
    backend_->release(range.begin, range.bytes);
  }
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t size = aligned(bytes);
  std::byte* block = nullptr;
  if (const auto best = by_size_.lower_bound({size, nullptr}); best != by_size_.end()) {
    const auto [of_hole, begin] = *best;
    remove_hole(holes_.find(begin));
    if (of_hole > size) add_hole(begin + size, of_hole - size);
    block = begin;
  } else {
    block = grow(size);
  }
  if (block != nullptr) allow(block, bytes);
  return block;
}

void Arena::release(void* block, std::size_t bytes) {
  auto* begin = static_cast<std::byte*>(block);
  std::size_t size = aligned(bytes);
  forbid(begin, size);
  const auto after = holes_.find(begin + size);
  if (after != holes_.end() && !begins_range(begin + size)) {
    size += after->second;
    remove_hole(after);
  }
  auto before = holes_.lower_bound(begin);
  if (before != holes_.begin() && !begins_range(begin)) {
    --before;
    if (before->first + before->second == begin) {
      begin = before->first;
      size += before->second;
      remove_hole(before);
    }
  }
  add_hole(begin, size);
}

void Arena::add_hole(std::byte* begin, std::size_t bytes) {
  holes_.emplace(begin, bytes);
  by_size_.emplace(bytes, begin);
}

void Arena::remove_hole(Holes::iterator hole) {
  by_size_.erase({hole->second, hole->first});
  holes_.erase(hole);
}

bool Arena::begins_range(const std::byte* address) const {
  return std::ranges::any_of(ranges_, [&](const Range& range) { return range.begin == address; });
}

// A block behind all others, from the hole on that may be there.
std::byte* Arena::grow(std::size_t bytes) {
  if (!ranges_.empty()) {
    Range& range = ranges_.back();
    std::byte* begin = range.begin + range.used;
    auto hole = holes_.lower_bound(begin);
    const bool follows_hole = range.used > 0 && hole != holes_.begin() &&
                              std::prev(hole)->first + std::prev(hole)->second == begin;
    if (follows_hole) begin = (--hole)->first;
    const auto end = std::size_t(begin - range.begin) + bytes;
    if (end <= range.bytes) {
      if (!commit(range, end)) return nullptr;
      if (follows_hole) remove_hole(hole);
      return begin;
    }
  }
  if (limit_ > 0 && held_ + bytes > limit_) return nullptr;
  Range range{nullptr, std::max(bytes, backend_->range_bytes())};
  while ((range.begin = static_cast<std::byte*>(backend_->reserve(range.bytes))) == nullptr) {
    if (range.bytes == bytes) return nullptr;
    range.bytes = std::max(bytes, aligned(range.bytes / 2));
  }
  ranges_.push_back(range);
  return commit(ranges_.back(), bytes) ? range.begin : nullptr;
}

// The range's first `bytes` can be used then.
bool Arena::commit(Range& range, std::size_t bytes) {
  const std::size_t more = bytes - range.used;
  if (limit_ > 0 && held_ + more > limit_) return false;
  if (!backend_->commit(range.begin, range.used, bytes)) return false;
  forbid(range.begin + range.used, more);
  range.used = bytes;
  held_ += more;
  return true;
}

}  // namespace pf
