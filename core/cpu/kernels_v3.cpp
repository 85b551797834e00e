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

#include "core/cpu/isa_v3.inl"

}  // namespace

#include "core/cpu/kernels.inl"

}  // namespace pf::v3

#pragma GCC pop_options
