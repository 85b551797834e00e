// The operands of products, and the inner loops of those of f32 and f64, compiled once for each
// instruction set.
//
// B [k, n] is read in panels of `wide` columns; A as its rows are, or in slabs of `tall` rows,
// [m / tall, k, tall]. A tile of C, tall x wide, stays in registers over all of k. Each element of
// C is the sum over k in order, whatever its tile.
#pragma once

#include <cstdint>

#include "core/cpu/processor.h"
#include "core/dtype.h"

namespace pf {

// Row r of what is stored starts at data + r * pitch. `transposed`: what is stored is the
// transpose.
template <class T>
struct Matrix {
  const T* data = nullptr;
  std::int64_t pitch = 0;
  bool transposed = false;

  Matrix from(std::int64_t row, std::int64_t column) const {
    return {data + (transposed ? column * pitch + row : row * pitch + column), pitch, transposed};
  }
};

// A right operand [k, n] as products read it: columns in panels, [n / width, k, width], the last
// filled up with zeros. What the rows of a panel of bf16 are stands in core/cpu/bf16_gemm.h.
template <class T>
struct Panels {
  T* data = nullptr;
  std::int64_t panel = 0;  // elements from one panel to the next
  std::int64_t width = 0;

  // The part from there on. `column` must be a multiple of `width`; of bf16, `row` of 32.
  Panels from(std::int64_t row, std::int64_t column) const {
    return {data + row * width + column / width * panel, panel, width};
  }
};

// Rows of C that are whole tiles with any instruction set.
constexpr std::int64_t whole_tiles = 12;

template <class T>
struct PanelKernels {
  using i64 = std::int64_t;
  i64 tall, wide;

  // C [rows, columns] (+)= A [rows, k] B, of one panel: columns <= wide.
  struct Product {
    T* c;
    i64 c_pitch;
    const T* a;
    i64 a_pitch;
    bool in_slabs;  // A; then a_pitch is from one slab to the next
    const T* b;
    i64 rows, columns, k;
    bool adds;
  };
  void (*multiply)(const Product& product);

  // B [k, n] into panels, and A [m, k] of which the transpose is stored into slabs; `step` elements
  // from one to the next, of slabs at least slab_size(k).
  void (*pack_panels)(T* to, i64 step, const Matrix<T>& b, i64 k, i64 n);
  void (*pack_slabs)(T* to, i64 step, const T* stored, i64 pitch, i64 m, i64 k);
  // One line of a cache more than what a slab holds: written in turn, slabs would otherwise share
  // few sets of the first cache.
  i64 slab_size(i64 k) const { return k * tall + 64 / i64(sizeof(T)); }
};

// Over operands of bf16.
struct Bf16Loops {
  using i64 = std::int64_t;
  // Where products are made in f32: to [rows, columns] = from.
  void (*widen_rows)(float* to, const Bf16* from, i64 pitch, i64 rows, i64 columns);
  // A panel of 32 columns of core/cpu/bf16_gemm.h, from its row `first`, a multiple of 32, into
  // panels of PanelKernels<float>.
  void (*widen_panels)(float* to, const Bf16* panel, i64 first, i64 k);
  // And what was made of them: to [rows, columns] = from, rounded.
  void (*narrow_rows)(Bf16* to, i64 to_pitch, const float* from, i64 from_pitch, i64 rows,
                      i64 columns);
  // Words of 32 bits, to [16, 16] = (from[2 i, j], from[2 i + 1, j]).
  void (*join_rows)(void* to, const Bf16* from, i64 pitch);
  // to[j, i] = from[i, j], 16 x 16 words of 32 bits; pitches in bytes.
  void (*transpose_words)(void* to, i64 to_pitch, const void* from, i64 from_pitch);
};

// T: float, double.
template <class T>
const PanelKernels<T>& panel_kernels(Isa isa);
const Bf16Loops& bf16_loops(Isa isa);

namespace base {
template <class T>
const PanelKernels<T>& panel_kernels();
const Bf16Loops& bf16_loops();
}  // namespace base
namespace v3 {
template <class T>
const PanelKernels<T>& panel_kernels();
const Bf16Loops& bf16_loops();
}  // namespace v3
namespace v4 {
template <class T>
const PanelKernels<T>& panel_kernels();
const Bf16Loops& bf16_loops();
}  // namespace v4

}  // namespace pf
