// The loops of attention for AVX-512. See kernels_v4.cpp.
#include <immintrin.h>

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

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,f16c")

namespace pf::v4 {
namespace {

#include "core/cpu/isa_v4.inl"

}  // namespace

#include "core/cpu/attention_rows.inl"

}  // namespace pf::v4

#pragma GCC pop_options
