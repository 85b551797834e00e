#include "core/cpu/processor.h"

#include <cpuid.h>

#include <cstdlib>

#include "core/error.h"

namespace pf {
namespace {

constexpr const char* cap_variable = "PENTAFOLD_CPU";

Isa highest_allowed() {
  const char* wanted = std::getenv(cap_variable);
  if (wanted == nullptr) return Isa::v4;
  for (const Isa isa : {Isa::base, Isa::v3, Isa::v4})
    if (wanted == std::string(name(isa))) return isa;
  throw Error(std::string(cap_variable) + "='" + wanted + "': wants sse2, avx2 or avx512");
}

std::vector<Isa> isas_of_processor() {
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

}  // namespace

std::vector<Isa> usable_isas() {
  std::vector<Isa> usable = isas_of_processor();
  const Isa highest = highest_allowed();
  while (usable.back() > highest) usable.pop_back();
  return usable;
}

bool has_avx512_bf16() {
  return usable_isas().back() == Isa::v4 && __builtin_cpu_supports("avx512bf16");
}

// Leaf 7, EDX: not every compiler's __builtin_cpu_supports knows their names.
bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bf16_bit = 1u << 22, tile_bit = 1u << 24;
  return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & bf16_bit) != 0 &&
         (d & tile_bit) != 0;
}

const char* name(Isa isa) {
  constexpr const char* names[] = {"sse2", "avx2", "avx512"};
  return names[std::size_t(isa)];
}

std::string processor_features(Isa isa) {
  std::string text = name(isa);
  if (isa == Isa::v4 && has_avx512_bf16()) text += " avx512_bf16";
  if (isa == Isa::v4 && has_amx_bf16()) text += " amx_bf16";
  return text;
}

}  // namespace pf
