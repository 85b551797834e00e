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

#include "core/cpu/isa_v4.inl"

}  // namespace

#include "core/cpu/kernels.inl"

}  // namespace pf::v4

#pragma GCC pop_options
