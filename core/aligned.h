// How blocks lie in memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pf {

// Up to whole lines of 64 bytes, at which every block begins.
constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Cuts a workspace into arrays. With no workspace it only counts.
class Cutter {
 public:
  explicit Cutter(std::byte* at) : begin_(at), at_(at) {}
  template <class T>
  T* cut(std::int64_t size) {
    T* here = reinterpret_cast<T*>(at_);
    at_ += aligned(std::size_t(size) * sizeof(T));
    return here;
  }
  std::size_t bytes() const { return std::size_t(at_ - begin_); }

 private:
  std::byte* begin_;
  std::byte* at_;
};

}  // namespace pf
