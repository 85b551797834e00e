// The products of f32 and f64: what is read again and again of a call is packed first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/backend.h"
#include "core/cpu/gemm.h"
#include "core/cpu/product_tiles.h"
#include "core/workers.h"

namespace pf {

// As the section Products of core/backend.h. `work` holds workspace(rows, w) bytes.
template <class T>
class PlainProducts {
 public:
  PlainProducts(Workers& workers, Isa isa) : workers_(workers), gemm_(isa) {}

  std::size_t workspace(std::int64_t rows, const Packed& w) const;
  void product(const Tensor& y, const Tensor& x, const Packed& w,
               std::span<const std::int64_t> counts, std::byte* work) const;
  void input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                      std::span<const std::int64_t> counts, std::byte* work) const;
  void weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy, const Tensor& x,
                       const Packed& w, std::span<const std::int64_t> counts,
                       std::byte* work) const;

 private:
  using i64 = std::int64_t;

  // A right operand [k, n] and its panels. Of weights, also what it is multiplied with,
  // columns of the left operand from `from` on, and where that is written or added.
  struct Right {
    Matrix<T> b;
    i64 k = 0, n = 0;
    Panels<T> panels;
    i64 from = 0, to = 0;
    bool adds = false;
  };
  void pack(const std::vector<Right>& all) const;
  // y = x B for each group, with the weights' parts side by side (`is_forward`) or one below the
  // other.
  void multiply(const Tensor& y, const Tensor& x, const Packed& w, std::span<const i64> counts,
                bool is_forward, std::byte* work) const;
  std::size_t scratch_bytes(const Packed& w, i64 rows) const;

  Workers& workers_;
  Gemm<T> gemm_;
};

}  // namespace pf
