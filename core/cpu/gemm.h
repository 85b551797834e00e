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

// Each element is the sum over k in order, so that it is the same in any larger product. Cheap to
// copy; safe from several threads with a scratch for each.
template <class T>
class Gemm {
 public:
  // `isa` must be one of usable_isas().
  explicit Gemm(Isa isa) : kernels_(&panel_kernels<T>(isa)) {}

  // At `data`, a B with k rows; its panels' width divides 32.
  Panels<T> panels(T* data, std::int64_t k) const {
    return {data, k * kernels_->wide, kernels_->wide};
  }
  // Elements of B [k, n] in panels.
  std::int64_t packed_size(std::int64_t k, std::int64_t n) const;
  // Writes B [k, n] where `to` begins, which may be the inside of a larger B.
  void pack(const Panels<T>& to, const Matrix<T>& b, std::int64_t k, std::int64_t n) const;

  // What A takes where it is transposed; otherwise no scratch is needed.
  std::size_t scratch_bytes(std::int64_t m, std::int64_t k) const;
  void run(T* c, std::int64_t c_pitch, const Matrix<T>& a, const Panels<T>& b,
           const GemmShape& shape, void* scratch) const;

 private:
  const PanelKernels<T>* kernels_;
};

}  // namespace pf
