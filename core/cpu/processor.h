// What the processor that this runs on can do, asked at run time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pf {

// Levels of x86-64: SSE2; AVX2 with FMA; AVX-512 F, BW, DQ and VL.
enum class Isa : std::uint8_t { base, v3, v4 };

// Up to the level that PENTAFOLD_CPU names in the environment, if it is set: tests on a processor
// with more. Throws Error if that names no level. Slowest first.
std::vector<Isa> usable_isas();
const char* name(Isa isa);  // "sse2", "avx2", "avx512"

// What is there once for each level.
template <class T>
T of_isa(Isa isa, T base, T v3, T v4) {
  return isa == Isa::v4 ? v4 : isa == Isa::v3 ? v3 : base;
}

// Instructions beyond Isa::v4; none where that is not usable.
bool has_avx512_bf16();
bool has_amx_bf16();  // of the processor; its kernel may still refuse

// `isa` and what else products are made with: "avx512 avx512_bf16 amx_bf16".
std::string processor_features(Isa isa);

}  // namespace pf
