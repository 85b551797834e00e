// The products of f32 and f64: what is read again and again is packed first.
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

  // A part of a weight as right operand [k, n] and its panels, the columns of the left operand from
  // `from` on that it is multiplied with, and where that is written or added.
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
  // A worker's of weight gradients: what A takes, then a chunk of x in panels.
  struct Scratch {
    std::byte* gemm;
    T* panels;
    std::size_t bytes;
  };
  Scratch scratch(std::byte* work, i64 rows, const Packed& w) const;
  // dw (+)= dy' x of a piece of any size.
  void gradient(std::span<const GradientTarget> dws, const Tensor& dy, const Tensor& x,
                const Packed& w, const Piece& piece, const Scratch& scratch) const;

  Workers& workers_;
  Gemm<T> gemm_;
};

}  // namespace pf
