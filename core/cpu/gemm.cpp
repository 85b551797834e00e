#include "core/cpu/gemm.h"

#include <algorithm>

#include "core/aligned.h"

namespace pf {
namespace {

using i64 = std::int64_t;

// Rows of A of this depth and number stay in the second-level cache while panels of B pass by. The
// deeper, the less often C is read and written.
constexpr i64 most_depth = 512, most_rows = 8 * whole_tiles;

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
void Gemm<T>::pack(const Panels<T>& to, const Matrix<T>& b, i64 k, i64 n) const {
  kernels_->pack_panels(to.data, to.panel, b, k, n);
}

template <class T>
std::size_t Gemm<T>::scratch_bytes(i64 m, i64 k) const {
  const i64 slabs = pieces(std::min(m, most_rows), kernels_->tall);
  return aligned(std::size_t(kernels_->slab_size(std::min(k, most_depth)) * slabs) * sizeof(T));
}

template <class T>
void Gemm<T>::run(T* c, i64 c_pitch, const Matrix<T>& a, const Panels<T>& b, const GemmShape& shape,
                  void* scratch) const {
  if (is_trivial(c, c_pitch, shape)) return;
  const i64 depth = step_of(shape.k, most_depth);
  const i64 height = rounded(step_of(shape.m, most_rows), kernels_->tall);
  auto* slabs = static_cast<T*>(scratch);
  typename PanelKernels<T>::Product part{};
  part.c_pitch = c_pitch;
  part.in_slabs = a.transposed;
  for (i64 first = 0; first < shape.k; first += depth) {
    part.k = std::min(depth, shape.k - first);
    part.adds = shape.adds || first > 0;
    for (i64 row = 0; row < shape.m; row += height) {
      part.rows = std::min(height, shape.m - row);
      const Matrix<T> rows = a.from(row, first);
      part.a = rows.data;
      part.a_pitch = rows.pitch;
      if (a.transposed) {
        part.a = slabs;
        part.a_pitch = kernels_->slab_size(part.k);
        kernels_->pack_slabs(slabs, part.a_pitch, rows.data, rows.pitch, part.rows, part.k);
      }
      for (i64 column = 0; column < shape.n; column += b.width) {
        part.b = b.from(first, column).data;
        part.c = c + row * c_pitch + column;
        part.columns = std::min(b.width, shape.n - column);
        kernels_->multiply(part);
      }
    }
  }
}

template class Gemm<float>;
template class Gemm<double>;

}  // namespace pf
