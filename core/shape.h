// The extents of a tensor, slowest dim first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>

namespace pf {

// One to four dims; a default Shape has none and one element (a scalar).
class Shape {
 public:
  static constexpr int max_dims = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  int dims() const { return dims_; }
  // Negative dims count from the end.
  std::int64_t operator[](int dim) const { return extents_[index(dim)]; }
  void set(int dim, std::int64_t extent) { extents_[index(dim)] = extent; }
  std::int64_t size() const;     // elements
  std::int64_t columns() const;  // the last extent; 1 for a scalar
  std::int64_t rows() const;     // size / columns

  friend bool operator==(const Shape&, const Shape&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape);

 private:
  std::size_t index(int dim) const;

  std::array<std::int64_t, max_dims> extents_{};
  int dims_ = 0;
};

}  // namespace pf
