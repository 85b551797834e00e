// Products of f32 and f64 matrices on one thread: C [m, n] (+)= A [m, k] B [k, n], rows major.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/cpu/panels.h"
#include "core/cpu/processor.h"

namespace pf {

struct GemmShape {
  std::int64_t m = 0, n = 0, k = 0;
  bool adds = false;  // to what C holds
};

// True if there is nothing to multiply; then C is what it has to be.
template <class C>
bool is_trivial(C* c, std::int64_t c_pitch, const GemmShape& shape) {
  if (shape.m > 0 && shape.n > 0 && shape.k > 0) return false;
  if (!shape.adds)
    for (std::int64_t r = 0; r < shape.m; ++r) std::fill_n(c + r * c_pitch, shape.n, C());
  return true;
}

// What Gemm::pack() makes of B [k, n]: [n / width, k, width], filled up with zeros.
template <class T>
struct Panels {
  const T* data = nullptr;
  std::int64_t k = 0;

  // `column` must be a multiple of Gemm::width().
  Panels from(std::int64_t column) const { return {data + column * k, k}; }
};

// Each element is the sum over k in order, so that it is the same in any larger product. Cheap to
// copy; safe from several threads with a scratch for each.
template <class T>
class Gemm {
 public:
  // `isa` must be one of usable_isas().
  explicit Gemm(Isa isa) : kernels_(&panel_kernels<T>(isa)) {}

  // Columns of a panel: a divisor of 32.
  std::int64_t width() const { return kernels_->wide; }
  // Elements of B [k, n] in panels.
  std::int64_t packed_size(std::int64_t k, std::int64_t n) const;
  // Rows [first, first + rows) of B [k, n], given from its row `first` on, into panels of all k.
  void pack(T* panels, std::int64_t k, std::int64_t first, const Matrix<T>& b, std::int64_t rows,
            std::int64_t n) const;

  // What A takes where it is transposed; otherwise no scratch is needed.
  std::size_t scratch_bytes(std::int64_t m, std::int64_t k) const;
  void run_packed(T* c, std::int64_t c_pitch, const Matrix<T>& a, const Panels<T>& b,
                  const GemmShape& shape, void* scratch) const;

  // The same of a B that is used once. Enough for all products with at most this n and k, and `m`
  // where A is transposed.
  std::size_t scratch_bytes(std::int64_t m, std::int64_t n, std::int64_t k) const;
  void run(T* c, std::int64_t c_pitch, const Matrix<T>& a, const Matrix<T>& b,
           const GemmShape& shape, void* scratch) const;

 private:
  const PanelKernels<T>* kernels_;
};

}  // namespace pf
