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

#include "core/cpu/isa_base.inl"

}  // namespace

#include "core/cpu/kernels.inl"

}  // namespace pf::base
