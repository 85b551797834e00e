#include "core/cpu/bf16_gemm.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <type_traits>

#include "core/cpu/bf16_kernels.h"
#include "core/cpu/processor.h"
#include "core/error.h"

namespace pf {
namespace {

// What is widened to f32 at a time: rows of A, and rows of a panel of B.
constexpr std::int64_t wide_rows = 96, wide_depth = 256;
// Bytes of B that should stay in the second-level cache while all rows of A pass by.
constexpr std::int64_t cached_bytes = std::int64_t{768} << 10;

constexpr std::int64_t tile_bytes = std::int64_t{32} * 32 * 4;

// A block of 16 words, of two bf16 each, squared.
struct alignas(64) Words {
  std::uint32_t word[16][16];
};

// words[i][j] = (from[2 i, j], from[2 i + 1, j]), zero where there is no row or no column.
void join_pairs(const Bf16Loops& loops, Words& words, const Bf16* from, std::int64_t pitch,
                std::int64_t rows, std::int64_t columns) {
  if (rows >= 32 && columns >= 16) return loops.join_rows(&words, from, pitch);
  Bf16 padded[32][16];
  for (std::int64_t i = 0; i < 32; ++i)
    for (std::int64_t j = 0; j < 16; ++j)
      padded[i][j] = i < rows && j < columns ? from[i * pitch + j] : Bf16();
  loops.join_rows(&words, padded[0], 16);
}

void copy_rows(Bf16* to, std::int64_t to_pitch, const Bf16* from, std::int64_t from_pitch,
               std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<void*>(to + r * to_pitch), from + r * from_pitch,
                std::size_t(columns) * sizeof(Bf16));
}

// [32, k] up to [32, k rounded up], from fewer rows.
const Bf16* padded_rows(Bf16* to, const Bf16* a, std::int64_t pitch, std::int64_t rows,
                        std::int64_t k) {
  const std::int64_t wide = in_blocks(k);
  std::memset(static_cast<void*>(to), 0, std::size_t(gemm_block * wide) * sizeof(Bf16));
  copy_rows(to, wide, a, pitch, rows, k);
  return to;
}

template <class C>
void multiply_rows(C* c, std::int64_t c_pitch, const RowsOfPanels& whole, std::int64_t rows,
                   std::int64_t columns, float* tile, void (*multiply)(const RowsOfPanels&)) {
  constexpr bool narrows = std::is_same_v<C, Bf16>;
  RowsOfPanels part = whole;
  if (rows == gemm_block && columns >= gemm_block) {
    part.c = c;
    part.c_pitch = c_pitch;
    part.panels = columns / gemm_block;
    part.narrows = narrows;
    multiply(part);
  }
  const std::int64_t done = rows == gemm_block ? columns / gemm_block * gemm_block : 0;
  for (std::int64_t column = done; column < columns; column += gemm_block) {
    const std::int64_t width = std::min(gemm_block, columns - column);
    part.c = tile;
    part.c_pitch = gemm_block;
    part.b = whole.b + column / gemm_block * whole.panel;
    part.panels = 1;
    part.narrows = false;
    if constexpr (!narrows)
      if (part.adds)
        for (std::int64_t r = 0; r < rows; ++r)
          std::copy_n(c + r * c_pitch + column, width, tile + r * gemm_block);
    multiply(part);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t j = 0; j < width; ++j)
        c[r * c_pitch + column + j] = C(tile[r * gemm_block + j]);
  }
}

template <class C>
void multiply_blocked(C* c, std::int64_t c_pitch, const Matrix<Bf16>& a, const Panels<Bf16>& b,
                      const GemmShape& shape, void* scratch,
                      void (*multiply)(const RowsOfPanels&)) {
  auto* tile = static_cast<float*>(scratch);
  auto* padded = reinterpret_cast<Bf16*>(static_cast<std::byte*>(scratch) + tile_bytes);
  const std::int64_t steps = in_blocks(shape.k) / gemm_block;
  const std::int64_t panel_bytes = steps * gemm_block * gemm_block * std::int64_t(sizeof(Bf16));
  const std::int64_t wide = std::max<std::int64_t>(1, cached_bytes / panel_bytes) * gemm_block;
  RowsOfPanels part{};
  part.panel = b.panel;
  part.steps = steps;
  part.adds = shape.adds;
  for (std::int64_t column = 0; column < shape.n; column += wide) {
    part.b = b.data + column / gemm_block * b.panel;
    for (std::int64_t row = 0; row < shape.m; row += gemm_block) {
      const std::int64_t rows = std::min(gemm_block, shape.m - row);
      const bool fits = rows == gemm_block && shape.k % gemm_block == 0;
      const Bf16* first = a.from(row, 0).data;
      part.a = fits ? first : padded_rows(padded, first, a.pitch, rows, shape.k);
      part.a_pitch = fits ? a.pitch : in_blocks(shape.k);
      multiply_rows(c + row * c_pitch + column, c_pitch, part, rows,
                    std::min(wide, shape.n - column), tile, multiply);
    }
  }
}

struct WideScratch {
  float *a, *b, *c;  // [wide_rows, k], panels of [wide_depth, 32], [wide_rows, 32]

  WideScratch(void* at, std::int64_t k)
      : a(static_cast<float*>(at)), b(a + wide_rows * k), c(b + wide_depth * gemm_block) {}
  static std::size_t bytes(std::int64_t k) {
    return std::size_t(wide_rows * k + (wide_depth + wide_rows) * gemm_block) * sizeof(float);
  }
};

// C [rows, columns] (+)= A B, of one panel; A is in the scratch.
void multiply_wide_panel(const PanelKernels<float>& kernels, const Bf16Loops& loops,
                         const WideScratch& scratch, const Bf16* panel,
                         PanelKernels<float>::Product part, std::int64_t k) {
  const std::int64_t columns = part.columns;
  float* const c = part.c;
  part.a_pitch = k;
  for (std::int64_t first = 0; first < k; first += wide_depth, part.adds = true) {
    part.k = std::min(wide_depth, k - first);
    loops.widen_panels(scratch.b, panel, first, part.k);
    part.a = scratch.a + first;
    for (std::int64_t at = 0; at < columns; at += kernels.wide) {
      part.c = c + at;
      part.b = scratch.b + at * part.k;
      part.columns = std::min(kernels.wide, columns - at);
      kernels.multiply(part);
    }
  }
}

template <class C>
void multiply_widened(C* c, std::int64_t c_pitch, const Matrix<Bf16>& a, const Panels<Bf16>& b,
                      const GemmShape& shape, const WideScratch& scratch, Isa isa) {
  const PanelKernels<float>& kernels = panel_kernels<float>(isa);
  const Bf16Loops& loops = bf16_loops(isa);
  PanelKernels<float>::Product part{};
  part.adds = shape.adds;
  for (std::int64_t row = 0; row < shape.m; row += wide_rows) {
    part.rows = std::min(wide_rows, shape.m - row);
    loops.widen_rows(scratch.a, a.from(row, 0).data, a.pitch, part.rows, shape.k);
    for (std::int64_t column = 0; column < shape.n; column += gemm_block) {
      part.columns = std::min(gemm_block, shape.n - column);
      const Bf16* panel = b.data + column / gemm_block * b.panel;
      C* to = c + row * c_pitch + column;
      if constexpr (std::is_same_v<C, float>) {
        part.c = to;
        part.c_pitch = c_pitch;
        multiply_wide_panel(kernels, loops, scratch, panel, part, shape.k);
      } else {
        part.c = scratch.c;
        part.c_pitch = gemm_block;
        multiply_wide_panel(kernels, loops, scratch, panel, part, shape.k);
        loops.narrow_rows(to, c_pitch, scratch.c, gemm_block, part.rows, part.columns);
      }
    }
  }
}

}  // namespace

Bf16Gemm::Bf16Gemm(Isa isa)
    : isa_(isa),
      level_(isa != Isa::v4      ? Bf16Level::widened
             : has_amx()         ? Bf16Level::amx
             : has_avx512_bf16() ? Bf16Level::avx512
                                 : Bf16Level::widened) {}

Bf16Gemm::Bf16Gemm(Isa isa, Bf16Level level) : isa_(isa), level_(level) {
  require(level != Bf16Level::amx || has_amx(), "bf16 products: no AMX here; use another level");
  require(level != Bf16Level::avx512 || has_avx512_bf16(),
          "bf16 products: no avx512_bf16 here; use another level");
}

std::size_t Bf16Gemm::scratch_bytes(std::int64_t k) const {
  if (level_ == Bf16Level::widened) return WideScratch::bytes(k);
  return std::size_t(tile_bytes) + std::size_t(gemm_block * in_blocks(k)) * sizeof(Bf16);
}

template <class C>
void Bf16Gemm::run(C* c, std::int64_t c_pitch, const Matrix<Bf16>& a, const Panels<Bf16>& b,
                   const GemmShape& shape, void* scratch) const {
  assert(!a.transposed && (!shape.adds || (std::is_same_v<C, float>)));
  if (is_trivial(c, c_pitch, shape)) return;
  switch (level_) {
    case Bf16Level::amx:
      begin_amx();
      multiply_blocked(c, c_pitch, a, b, shape, scratch, multiply_amx);
      end_amx();
      break;
    case Bf16Level::avx512:
      multiply_blocked(c, c_pitch, a, b, shape, scratch, multiply_avx512);
      break;
    case Bf16Level::widened:
      multiply_widened(c, c_pitch, a, b, shape, WideScratch(scratch, shape.k), isa_);
      break;
  }
}

template void Bf16Gemm::run(float*, std::int64_t, const Matrix<Bf16>&, const Panels<Bf16>&,
                            const GemmShape&, void*) const;
template void Bf16Gemm::run(Bf16*, std::int64_t, const Matrix<Bf16>&, const Panels<Bf16>&,
                            const GemmShape&, void*) const;

void Bf16Gemm::pack(const Panels<Bf16>& to, const Matrix<Bf16>& b, std::int64_t k,
                    std::int64_t n) const {
  const Bf16Loops& loops = bf16_loops(isa_);
  // Along the rows of what is stored, so that each line is read once.
  const std::int64_t across = in_blocks(n) / 16, along = in_blocks(k) / 32;
  for (std::int64_t i = 0; i < across * along; ++i) {
    const std::int64_t column = (b.transposed ? i / along : i % across) * 16;
    const std::int64_t row = (b.transposed ? i % along : i / across) * 32;
    Bf16* half = to.from(row, column).data + column % 32 * 32;
    const std::int64_t rows = std::min<std::int64_t>(32, k - row);
    const std::int64_t columns = std::min<std::int64_t>(16, n - column);
    if (!b.transposed) {
      join_pairs(loops, *reinterpret_cast<Words*>(half), b.data + row * b.pitch + column, b.pitch,
                 rows, columns);
    } else if (rows == 32 && columns == 16) {
      loops.transpose_words(half, 64, b.data + column * b.pitch + row, b.pitch * 2);
    } else {
      Bf16 padded[16][32] = {};
      if (columns > 0)
        copy_rows(padded[0], 32, b.data + column * b.pitch + row, b.pitch, columns, rows);
      loops.transpose_words(half, 64, padded, 64);
    }
  }
}

void Bf16Gemm::transpose(Bf16* to, std::int64_t to_pitch, const Bf16* from, std::int64_t from_pitch,
                         std::int64_t rows, std::int64_t columns) const {
  const Bf16Loops& loops = bf16_loops(isa_);
  for (std::int64_t row = 0; row < rows; row += 32)
    for (std::int64_t column = 0; column < columns; column += 16) {
      const std::int64_t height = std::min<std::int64_t>(16, columns - column);
      Words words{};
      join_pairs(loops, words, from + row * from_pitch + column, from_pitch, rows - row, height);
      Bf16* corner = to + column * to_pitch + row;
      if (height == 16) {
        loops.transpose_words(corner, to_pitch * 2, &words, 64);
      } else {
        Bf16 whole[16][32];
        loops.transpose_words(whole, 64, &words, 64);
        copy_rows(corner, to_pitch, whole[0], 32, height, 32);
      }
    }
}

}  // namespace pf
