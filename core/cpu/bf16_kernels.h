// The inner loops of bf16 products, one set for each kind of instructions.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pf {

// C [32, panels * 32] (+)= A [32, steps * 32] B, with B in panels as in core/cpu/bf16_gemm.h. C is
// f32, or bf16 where nothing is added.
struct RowsOfPanels {
  void* c;
  std::int64_t c_pitch;
  const Bf16* a;
  std::int64_t a_pitch;
  const Bf16* b;
  std::int64_t panel, panels, steps;
  bool adds, narrows;
};

bool has_amx();  // asks the kernel for the use of tiles, once for the process
void begin_amx();
void end_amx();
void multiply_amx(const RowsOfPanels& rows);

void multiply_avx512(const RowsOfPanels& rows);

}  // namespace pf
