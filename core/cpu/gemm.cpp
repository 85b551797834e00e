#include "core/cpu/gemm.h"

#include <algorithm>

namespace pf {
namespace {

using i64 = std::int64_t;

// A tile's rows of A of this depth stay in the first-level cache, and that many rows in the second,
// while panels of B pass by. The deeper, the less often C is read and written.
constexpr i64 most_depth = 512, most_rows = 96, most_columns = 512;

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
std::size_t Gemm<T>::scratch_bytes(i64 m, i64 n, i64 k) const {
  const i64 depth = std::min(k, most_depth);
  const i64 columns = rounded(std::min(n, most_columns), kernels_->wide);
  const i64 rows = rounded(std::min(m, most_rows), kernels_->tall);
  return std::size_t(depth * (columns + rows)) * sizeof(T);
}

template <class T>
void Gemm<T>::run(T* c, i64 c_pitch, const Matrix<T>& a, const Matrix<T>& b, const GemmShape& shape,
                  void* scratch) const {
  if (is_trivial(c, c_pitch, shape)) return;
  const i64 wide = kernels_->wide, depth = step_of(shape.k, most_depth);
  auto* panels = static_cast<T*>(scratch);
  T* slabs = panels + depth * rounded(std::min(shape.n, most_columns), wide);
  typename PanelKernels<T>::Product part{};
  part.c_pitch = c_pitch;
  part.in_slabs = a.transposed;
  for (i64 column = 0; column < shape.n; column += most_columns) {
    const i64 columns = std::min(most_columns, shape.n - column);
    for (i64 first = 0; first < shape.k; first += depth) {
      part.k = std::min(depth, shape.k - first);
      part.adds = shape.adds || first > 0;
      kernels_->pack_panels(panels, b.from(first, column), part.k, columns);
      for (i64 row = 0; row < shape.m; row += most_rows) {
        part.rows = std::min(most_rows, shape.m - row);
        const Matrix<T> rows = a.from(row, first);
        part.a = rows.data;
        part.a_pitch = rows.pitch;
        if (a.transposed) {
          kernels_->pack_slabs(slabs, rows.data, rows.pitch, part.rows, part.k);
          part.a = slabs;
        }
        for (i64 at = 0; at < columns; at += wide) {
          part.b = panels + at * part.k;
          part.c = c + row * c_pitch + column + at;
          part.columns = std::min(wide, columns - at);
          kernels_->multiply(part);
        }
      }
    }
  }
}

template class Gemm<float>;
template class Gemm<double>;

}  // namespace pf
