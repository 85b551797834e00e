// The inner loops of products for AVX-512. See kernels_v4.cpp.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/cpu/panels.h"
#include "core/dtype.h"
#include "core/tensor.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,f16c")

namespace pf::v4 {
namespace {

constexpr int vector_bytes = 64;

// Masked with all lanes, since GCC 12 warns of what the plain forms leave undefined.
// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(32))) words) {
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)words);
  return (std::uint32_t __attribute__((vector_size(64))))wide;
}

}  // namespace

#include "core/cpu/panels.inl"

}  // namespace pf::v4

#pragma GCC pop_options
