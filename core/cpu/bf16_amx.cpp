#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/cpu/bf16_kernels.h"
#include "core/cpu/processor.h"

namespace pf {
namespace {

// Operands of instructions on tiles are numbers in the text, hence templates. GCC 12's own
// intrinsics do not say that they touch memory.
template <int tile>
[[gnu::always_inline]] inline void load_tile(const void* from, std::int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(tile) : "memory");
}

template <int tile>
[[gnu::always_inline]] inline void store_tile(void* to, std::int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(tile) : "memory");
}

template <int tile>
[[gnu::always_inline]] inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}

template <int c, int a, int b>
[[gnu::always_inline]] inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tiles 0 to 3 are a 32 x 32 block of C, 4 and 5 of A, 6 and 7 of B.
[[gnu::always_inline]] inline void load_c(const float* c, std::int64_t pitch) {
  load_tile<0>(c, pitch * 4);
  load_tile<1>(c + 16, pitch * 4);
  load_tile<2>(c + 16 * pitch, pitch * 4);
  load_tile<3>(c + 16 * pitch + 16, pitch * 4);
}

[[gnu::always_inline]] inline void store_c(float* c, std::int64_t pitch) {
  store_tile<0>(c, pitch * 4);
  store_tile<1>(c + 16, pitch * 4);
  store_tile<2>(c + 16 * pitch, pitch * 4);
  store_tile<3>(c + 16 * pitch + 16, pitch * 4);
}

[[gnu::target("avx512f,avx512bw,avx512vl,avx512bf16")]] void narrow(Bf16* c, std::int64_t pitch,
                                                                    const float* from) {
  for (std::int64_t row = 0; row < 32; ++row) {
    const __m512 low = _mm512_load_ps(from + row * 32), high = _mm512_load_ps(from + row * 32 + 16);
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(c + row * pitch, reinterpret_cast<const __m512i&>(both));
  }
}

}  // namespace

bool has_amx() {
  if (!has_amx_bf16()) return false;
  constexpr int request_permission = 0x1023, tile_data = 18;  // arch_prctl(2), XSAVE component
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

void begin_amx() {
  const TileShapes shapes;
  asm volatile("ldtilecfg %0" ::"m"(shapes));
}

void end_amx() {
  asm volatile("tilerelease");
}

void multiply_amx(const RowsOfPanels& rows) {
  alignas(64) float block[32 * 32];
  const Bf16* upper = rows.a;
  const Bf16* lower = rows.a + 16 * rows.a_pitch;
  for (std::int64_t panel = 0; panel < rows.panels; ++panel) {
    const Bf16* b = rows.b + panel * rows.panel;
    float* c = static_cast<float*>(rows.c) + panel * 32;
    if (rows.adds) {
      load_c(c, rows.c_pitch);
    } else {
      clear_tile<0>();
      clear_tile<1>();
      clear_tile<2>();
      clear_tile<3>();
    }
    for (std::int64_t step = 0; step < rows.steps; ++step) {
      load_tile<6>(b + step * 1024, 64);
      load_tile<4>(upper + step * 32, rows.a_pitch * 2);
      load_tile<7>(b + step * 1024 + 512, 64);
      load_tile<5>(lower + step * 32, rows.a_pitch * 2);
      multiply_tiles<0, 4, 6>();
      multiply_tiles<1, 4, 7>();
      multiply_tiles<2, 5, 6>();
      multiply_tiles<3, 5, 7>();
    }
    if (rows.narrows) {
      store_c(block, 32);
      narrow(static_cast<Bf16*>(rows.c) + panel * 32, rows.c_pitch, block);
    } else {
      store_c(c, rows.c_pitch);
    }
  }
}

}  // namespace pf
