#include <immintrin.h>

#include <cstring>

#include "core/cpu/bf16_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

namespace pf {
namespace {

// Rows of C that are in registers at once: 2 vectors each.
constexpr int tall = 8;

[[gnu::always_inline]] inline __m512bh pairs(const Bf16* from) {
  return (__m512bh)_mm512_loadu_si512(from);
}

[[gnu::always_inline]] inline __m512bh same_pair(const Bf16* from) {
  int word = 0;
  std::memcpy(&word, from, sizeof word);
  return (__m512bh)_mm512_set1_epi32(word);
}

void multiply_panel(const RowsOfPanels& rows, std::int64_t first_row, std::int64_t panel) {
  __m512 sums[tall][2];
  float* c = static_cast<float*>(rows.c) + first_row * rows.c_pitch + panel * 32;
  for (std::int64_t row = 0; row < tall; ++row)
    for (std::int64_t half = 0; half < 2; ++half)
      sums[row][half] =
          rows.adds ? _mm512_loadu_ps(c + row * rows.c_pitch + half * 16) : _mm512_setzero_ps();
  const Bf16* a = rows.a + first_row * rows.a_pitch;
  const Bf16* b = rows.b + panel * rows.panel;
  for (std::int64_t step = 0; step < rows.steps; ++step)
    for (std::int64_t pair = 0; pair < 16; ++pair) {
      const __m512bh left = pairs(b + step * 1024 + pair * 32);
      const __m512bh right = pairs(b + step * 1024 + 512 + pair * 32);
#pragma GCC unroll 8
      for (std::int64_t row = 0; row < tall; ++row) {
        const __m512bh x = same_pair(a + row * rows.a_pitch + step * 32 + pair * 2);
        sums[row][0] = _mm512_dpbf16_ps(sums[row][0], x, left);
        sums[row][1] = _mm512_dpbf16_ps(sums[row][1], x, right);
      }
    }
  for (std::int64_t row = 0; row < tall; ++row) {
    if (rows.narrows) {
      Bf16* to = static_cast<Bf16*>(rows.c) + (first_row + row) * rows.c_pitch + panel * 32;
      const __m512bh both = _mm512_cvtne2ps_pbh(sums[row][1], sums[row][0]);
      _mm512_storeu_si512(to, (__m512i)both);
    } else {
      _mm512_storeu_ps(c + row * rows.c_pitch, sums[row][0]);
      _mm512_storeu_ps(c + row * rows.c_pitch + 16, sums[row][1]);
    }
  }
}

}  // namespace

void multiply_avx512(const RowsOfPanels& rows) {
  for (std::int64_t panel = 0; panel < rows.panels; ++panel)
    for (std::int64_t row = 0; row < 32; row += tall) multiply_panel(rows, row, panel);
}

}  // namespace pf

#pragma GCC pop_options
