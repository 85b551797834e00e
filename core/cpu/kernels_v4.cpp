// The kernels for AVX-512.
//
// What the kernels include comes before the target pragma, and they have a namespace of their own:
// so no function that other code shares is compiled for this instruction set, and the linker can't
// give it to a processor without.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/cpu/kernels.h"
#include "core/dtype.h"
#include "core/philox.h"
#include "core/tensor.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")

namespace pf::v4 {
namespace {

constexpr int vector_bytes = 64;

// Masked with all lanes, since GCC 12 warns of what the plain forms leave undefined.
inline __m512 square_root(__m512 x) {
  return _mm512_maskz_sqrt_ps(0xffff, x);
}
inline __m512d square_root(__m512d x) {
  return _mm512_maskz_sqrt_pd(0xff, x);
}
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(32))) words) {
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)words);
  return (std::uint32_t __attribute__((vector_size(64))))wide;
}
// Of the lower halves of 64-bit lanes.
template <class Words>
Words wide_product(Words a, Words b) {
  return (Words)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
}

}  // namespace

#include "core/cpu/kernels.inl"

}  // namespace pf::v4

#pragma GCC pop_options
