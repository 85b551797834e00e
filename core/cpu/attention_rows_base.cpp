// The loops of attention for SSE2. See kernels_v4.cpp.
#include <emmintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/cpu/attention_rows.h"
#include "core/dtype.h"
#include "core/philox.h"
#include "core/tensor.h"

namespace pf::base {
namespace {

constexpr int vector_bytes = 16;

// Zeros above each 16-bit word.
inline auto widened(std::uint16_t __attribute__((vector_size(8))) words) {
  return __builtin_convertvector(words, std::uint32_t __attribute__((vector_size(16))));
}

}  // namespace

#include "core/cpu/attention_rows.inl"

}  // namespace pf::base
