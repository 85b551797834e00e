// The kernels for AVX2 with FMA. See kernels_v4.cpp.
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
#pragma GCC target("avx2,fma,bmi2")

namespace pf::v3 {
namespace {

constexpr int vector_bytes = 32;

inline __m256 square_root(__m256 x) {
  return _mm256_sqrt_ps(x);
}
inline __m256d square_root(__m256d x) {
  return _mm256_sqrt_pd(x);
}
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(16))) words) {
  return (std::uint32_t __attribute__((vector_size(32))))_mm256_cvtepu16_epi32((__m128i)words);
}
// Of the lower halves of 64-bit lanes.
template <class Words>
Words wide_product(Words a, Words b) {
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}

}  // namespace

#include "core/cpu/kernels.inl"

}  // namespace pf::v3

#pragma GCC pop_options
