#include "core/cpu/gemm.h"

#include <algorithm>

#include "core/aligned.h"

namespace pf {
namespace {

using i64 = std::int64_t;

// Rows of A of this depth and number stay in the second-level cache while panels of B pass by. The
// deeper, the less often C is read and written.
constexpr i64 most_depth = 512, most_rows = 96;

i64 pieces(i64 size, i64 most) {
  return (size + most - 1) / most;
}

// Steps of equal length but for the last, which is no longer.
i64 step_of(i64 size, i64 most) {
  return pieces(size, pieces(size, most));
}

i64 rounded(i64 size, i64 unit) {
  return pieces(size, unit) * unit;
}

}  // namespace

template <class T>
i64 Gemm<T>::packed_size(i64 k, i64 n) const {
  return k * rounded(n, kernels_->wide);
}

template <class T>
void Gemm<T>::pack(T* panels, i64 k, i64 first, const Matrix<T>& b, i64 rows, i64 n) const {
  kernels_->pack_panels(panels + first * kernels_->wide, k * kernels_->wide, b, rows, n);
}

template <class T>
std::size_t Gemm<T>::scratch_bytes(i64 m, i64 k) const {
  const i64 rows = rounded(std::min(m, most_rows), kernels_->tall);
  return aligned(std::size_t(std::min(k, most_depth) * rows) * sizeof(T));
}

template <class T>
void Gemm<T>::run_packed(T* c, i64 c_pitch, const Matrix<T>& a, const Panels<T>& b,
                         const GemmShape& shape, void* scratch) const {
  if (is_trivial(c, c_pitch, shape)) return;
  const i64 wide = kernels_->wide, depth = step_of(shape.k, most_depth);
  auto* slabs = static_cast<T*>(scratch);
  typename PanelKernels<T>::Product part{};
  part.c_pitch = c_pitch;
  part.in_slabs = a.transposed;
  for (i64 first = 0; first < shape.k; first += depth) {
    part.k = std::min(depth, shape.k - first);
    part.adds = shape.adds || first > 0;
    for (i64 row = 0; row < shape.m; row += most_rows) {
      part.rows = std::min(most_rows, shape.m - row);
      const Matrix<T> rows = a.from(row, first);
      part.a = rows.data;
      part.a_pitch = rows.pitch;
      if (a.transposed) {
        kernels_->pack_slabs(slabs, rows.data, rows.pitch, part.rows, part.k);
        part.a = slabs;
      }
      for (i64 column = 0; column < shape.n; column += wide) {
        part.b = b.data + column * b.k + first * wide;
        part.c = c + row * c_pitch + column;
        part.columns = std::min(wide, shape.n - column);
        kernels_->multiply(part);
      }
    }
  }
}

template <class T>
std::size_t Gemm<T>::scratch_bytes(i64 m, i64 n, i64 k) const {
  return aligned(std::size_t(packed_size(k, n)) * sizeof(T)) + scratch_bytes(m, k);
}

template <class T>
void Gemm<T>::run(T* c, i64 c_pitch, const Matrix<T>& a, const Matrix<T>& b, const GemmShape& shape,
                  void* scratch) const {
  auto* panels = static_cast<T*>(scratch);
  pack(panels, shape.k, 0, b, shape.k, shape.n);
  const std::size_t bytes = aligned(std::size_t(packed_size(shape.k, shape.n)) * sizeof(T));
  run_packed(c, c_pitch, a, Panels<T>{panels, shape.k}, shape,
             static_cast<std::byte*>(scratch) + bytes);
}

template class Gemm<float>;
template class Gemm<double>;

}  // namespace pf
