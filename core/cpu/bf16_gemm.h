// Products of bf16 matrices on one thread, sums in f32: C [m, n] (+)= A [m, k] B [k, n], rows
// major.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu/gemm.h"
#include "core/dtype.h"

namespace pf {

// Panels of B [k, n] are of 32 columns, in the order in which AMX tiles and dot products of pairs
// read them, k filled up with zeros too: [k / 32, 2 halves of a panel, 16 pairs of rows, 16
// columns, 2 rows].
constexpr std::int64_t gemm_block = 32;
constexpr std::int64_t in_blocks(std::int64_t size) {
  return (size + gemm_block - 1) / gemm_block * gemm_block;
}
// Elements of a B [k, n] in panels, and of one of them.
constexpr std::int64_t blocked_size(std::int64_t k, std::int64_t n) {
  return in_blocks(k) * in_blocks(n);
}
constexpr std::int64_t panel_size(std::int64_t k) {
  return in_blocks(k) * gemm_block;
}

// The instructions that bf16 products are made of. `widened`: of f32, with operands of the same
// rounding.
enum class Bf16Level : std::uint8_t { amx, avx512, widened };

// bf16 operands, sums in f32. Cheap to copy; safe from several threads with a scratch for each.
class Bf16Gemm {
 public:
  // The fastest that `isa`, one of usable_isas(), this CPU and its kernel allow.
  explicit Bf16Gemm(Isa isa);
  Bf16Gemm(Isa isa, Bf16Level level);  // throws Error where it is not allowed
  Bf16Level level() const { return level_; }

  // Of products with this k, in bytes.
  std::size_t scratch_bytes(std::int64_t k) const;
  // A is not transposed; C is f32, or bf16 where nothing is added.
  template <class C>
  void run(C* c, std::int64_t c_pitch, const Matrix<Bf16>& a, const Panels<Bf16>& b,
           const GemmShape& shape, void* scratch) const;

  // At `data`, a B with k rows.
  Panels<Bf16> panels(Bf16* data, std::int64_t k) const {
    return {data, panel_size(k), gemm_block};
  }
  // Writes B [k, n] where `to` begins, which may be the inside of a larger B.
  void pack(const Panels<Bf16>& to, const Matrix<Bf16>& b, std::int64_t k, std::int64_t n) const;
  // to[c, r] = from[r, c]; rows of `to` are filled up to a multiple of 32 with zeros.
  void transpose(Bf16* to, std::int64_t to_pitch, const Bf16* from, std::int64_t from_pitch,
                 std::int64_t rows, std::int64_t columns) const;

 private:
  Isa isa_;
  Bf16Level level_;
};

}  // namespace pf
