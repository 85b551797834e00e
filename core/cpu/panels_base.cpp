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

#include "core/cpu/isa_base.inl"

}  // namespace

#include "core/cpu/panels.inl"

}  // namespace pf::base
