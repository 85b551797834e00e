#include <immintrin.h>

#include <array>
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

// Lane i of row r and of row r + distance, for the rows without that bit.
template <int distance>
[[gnu::always_inline]] inline void exchange(__m512i (&rows)[16]) {
  constexpr auto chosen = [](bool upper) {
    std::array<int, 16> from{};  // 16 and more: of the second row
    for (std::int64_t lane = 0; lane < 16; ++lane) {
      const bool has_bit = (lane & distance) != 0;
      const int column = has_bit == upper ? lane : upper ? lane + distance : lane - distance;
      from[std::size_t(lane)] = has_bit ? column + 16 : column;
    }
    return from;
  };
  static constexpr std::array<int, 16> lower_lanes = chosen(false), upper_lanes = chosen(true);
  const __m512i lower = _mm512_loadu_si512(lower_lanes.data());
  const __m512i upper = _mm512_loadu_si512(upper_lanes.data());
#pragma GCC unroll 16
  for (std::int64_t row = 0; row < 16; ++row) {
    if ((row & distance) != 0) continue;
    const __m512i a = rows[row], b = rows[row + distance];
    rows[row] = _mm512_permutex2var_epi32(a, lower, b);
    rows[row + distance] = _mm512_permutex2var_epi32(a, upper, b);
  }
}

}  // namespace

void multiply_avx512(const RowsOfPanels& rows) {
  for (std::int64_t panel = 0; panel < rows.panels; ++panel)
    for (std::int64_t row = 0; row < 32; row += tall) multiply_panel(rows, row, panel);
}

void transpose_words_avx512(void* to, std::int64_t to_pitch, const void* from,
                            std::int64_t from_pitch) {
  // Swaps the off-diagonal quarters of ever larger squares: after distance d, bit d of the row's
  // number and bit d of the column's have changed places.
  __m512i rows[16];
#pragma GCC unroll 16
  for (std::int64_t i = 0; i < 16; ++i)
    rows[i] = _mm512_loadu_si512(static_cast<const char*>(from) + i * from_pitch);
  exchange<1>(rows);
  exchange<2>(rows);
  exchange<4>(rows);
  exchange<8>(rows);
#pragma GCC unroll 16
  for (std::int64_t i = 0; i < 16; ++i)
    _mm512_storeu_si512(static_cast<char*>(to) + i * to_pitch, rows[i]);
}

}  // namespace pf

#pragma GCC pop_options
