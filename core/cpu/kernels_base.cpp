// The kernels for SSE2, which every x86-64 has. See kernels_v4.cpp.
#include <emmintrin.h>

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

namespace pf::base {
namespace {

constexpr int vector_bytes = 16;

inline __m128 square_root(__m128 x) {
  return _mm_sqrt_ps(x);
}
inline __m128d square_root(__m128d x) {
  return _mm_sqrt_pd(x);
}
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(8))) words) {
  return __builtin_convertvector(words, std::uint32_t __attribute__((vector_size(16))));
}
// Of the lower halves of 64-bit lanes.
template <class Words>
Words wide_product(Words a, Words b) {
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
}

}  // namespace

#include "core/cpu/kernels.inl"

}  // namespace pf::base
