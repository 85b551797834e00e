// What the processor that this runs on can do, asked at run time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pf {

// Levels of x86-64: SSE2; AVX2 with FMA; AVX-512 F, BW, DQ and VL.
enum class Isa : std::uint8_t { base, v3, v4 };

std::vector<Isa> usable_isas();  // slowest first
const char* name(Isa isa);       // "sse2", "avx2", "avx512"

// `isa` and what else products are made with: "avx512 avx512_bf16 amx_bf16".
std::string processor_features(Isa isa);

}  // namespace pf
