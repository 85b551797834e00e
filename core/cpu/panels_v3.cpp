// The inner loops of products for AVX2 with FMA. See kernels_v4.cpp.
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
#pragma GCC target("avx2,fma,bmi2,f16c")

namespace pf::v3 {
namespace {

#include "core/cpu/isa_v3.inl"

}  // namespace

#include "core/cpu/panels.inl"

}  // namespace pf::v3

#pragma GCC pop_options
