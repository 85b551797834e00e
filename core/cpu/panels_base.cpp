// The inner loops of products for SSE2. See kernels_v4.cpp.
#include <emmintrin.h>

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

namespace pf::base {
namespace {

constexpr int vector_bytes = 16;

// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(8))) words) {
  return __builtin_convertvector(words, std::uint32_t __attribute__((vector_size(16))));
}

}  // namespace

#include "core/cpu/panels.inl"

}  // namespace pf::base
