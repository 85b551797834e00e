#include "core/cpu/processor.h"

#include <cpuid.h>

namespace pf {
namespace {

// Leaf 7, EDX: not every compiler's __builtin_cpu_supports knows its name.
bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0;
}

}  // namespace

std::vector<Isa> usable_isas() {
  __builtin_cpu_init();
  std::vector<Isa> usable{Isa::base};
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("bmi2"))
    return usable;
  usable.push_back(Isa::v3);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    usable.push_back(Isa::v4);
  return usable;
}

const char* name(Isa isa) {
  constexpr const char* names[] = {"sse2", "avx2", "avx512"};
  return names[std::size_t(isa)];
}

std::string processor_features(Isa isa) {
  __builtin_cpu_init();
  std::string text = name(isa);
  if (isa == Isa::v4 && __builtin_cpu_supports("avx512bf16")) text += " avx512_bf16";
  if (isa == Isa::v4 && has_amx_bf16()) text += " amx_bf16";
  return text;
}

}  // namespace pf
