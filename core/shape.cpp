#include "core/shape.h"

#include <algorithm>

#include "core/error.h"

namespace pf {

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) : dims_(int(extents.size())) {
  require(extents.size() <= max_dims, "shape: ", extents.size(), " dims; at most ", max_dims);
  for (std::int64_t extent : extents) require(extent >= 0, "shape: an extent of ", extent);
  std::ranges::copy(extents, extents_.begin());
}

std::size_t Shape::index(int dim) const {
  const int at = dim < 0 ? dim + dims_ : dim;
  require(at >= 0 && at < dims_, "shape: dim ", dim, " of ", *this);
  return std::size_t(at);
}

std::int64_t Shape::size() const {
  std::int64_t product = 1;
  for (int dim = 0; dim < dims_; ++dim) product *= extents_[std::size_t(dim)];
  return product;
}

std::int64_t Shape::columns() const {
  return dims_ == 0 ? 1 : extents_[std::size_t(dims_ - 1)];
}

std::int64_t Shape::rows() const {
  std::int64_t product = 1;
  for (int dim = 0; dim + 1 < dims_; ++dim) product *= extents_[std::size_t(dim)];
  return product;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int dim = 0; dim < shape.dims(); ++dim) out << (dim ? ", " : "") << shape[dim];
  return out << ']';
}

}  // namespace pf
