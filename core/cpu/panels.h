// The inner loops of f32 and f64 products, compiled once for each instruction set.
//
// B [k, n] is read in panels of `wide` columns, [n / wide, k, wide], filled up with zeros; A as its
// rows are, or in slabs of `tall` rows, [m / tall, k, tall]. A tile of C, tall x wide, stays in
// registers over all of k. Each element of C is the sum over k in order, whatever its tile.
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
    bool in_slabs;  // A; a_pitch is not read
    const T* b;
    i64 rows, columns, k;
    bool adds;
  };
  void (*multiply)(const Product& product);

  // B [k, n] into panels, `step` elements from one to the next, and A [m, k] of which the transpose
  // is stored into slabs.
  void (*pack_panels)(T* to, i64 step, const Matrix<T>& b, i64 k, i64 n);
  void (*pack_slabs)(T* to, const T* stored, i64 pitch, i64 m, i64 k);
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
