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

#include "core/cpu/isa_base.inl"

}  // namespace

#include "core/cpu/attention_rows.inl"

}  // namespace pf::base
