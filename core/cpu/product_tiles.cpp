#include "core/cpu/product_tiles.h"

namespace pf {

Interval share_of(std::int64_t size, std::int64_t i, std::int64_t count) {
  const std::int64_t blocks = in_blocks(size) / gemm_block;
  return {std::min(size, blocks * i / count * gemm_block),
          std::min(size, blocks * (i + 1) / count * gemm_block)};
}

std::vector<Tile> tiles_of(std::span<const std::int64_t> counts, int workers) {
  // Multiples of what the loops take at a time, so that few tiles have a rest.
  constexpr std::int64_t unit = 8 * whole_tiles, most = 5 * unit, tiles_a_worker = 8;
  std::int64_t whole = 0;
  for (const std::int64_t count : counts) whole += count;
  const std::int64_t wanted = whole / (tiles_a_worker * workers);
  const std::int64_t rows_a_tile = std::clamp((wanted + unit / 2) / unit * unit, unit, most);
  const std::int64_t across = whole >= 2 * gemm_block * workers ? 1 : workers;
  std::vector<Tile> tiles;
  each_group(counts, [&](std::int64_t group, Interval of_group) {
    for (std::int64_t row = of_group.begin; row < of_group.end; row += rows_a_tile)
      for (std::int64_t i = 0; i < across; ++i)
        tiles.push_back({group, {row, std::min(row + rows_a_tile, of_group.end)}, i, across});
  });
  return tiles;
}

// Blocks of outputs, of what loops take at a time, of all groups stand in a line, each as long as
// its group has rows. One group's outputs may be too few: then inputs are divided.
std::vector<std::vector<Piece>> pieces_of(const Packed& w, std::span<const std::int64_t> counts,
                                          int workers) {
  constexpr std::int64_t least = 8;  // rows that writing zeros is worth
  // In bf16 each piece packs its x again.
  const std::int64_t outputs_a_part = 128, parts_a_worker = w.type == DType::bf16 ? 1 : 6;
  const std::int64_t block = w.type == DType::bf16 ? gemm_block : whole_tiles;
  const std::int64_t blocks = (w.outputs + block - 1) / block, groups = std::ssize(counts);
  std::vector<std::vector<Piece>> parts;
  if (groups == 1 && blocks < workers) {
    for (int i = 0; i < workers; ++i)
      if (const Interval inputs = share_of(w.inputs, i, workers); inputs.size() > 0)
        parts.push_back({{0, {0, counts[0]}, {0, w.outputs}, inputs}});
    return parts;
  }
  parts.resize(std::size_t(std::clamp<std::int64_t>(groups * w.outputs / outputs_a_part, workers,
                                                    parts_a_worker * workers)));
  std::int64_t whole = 0, begin = 0;
  for (const std::int64_t count : counts) whole += (count + least) * blocks;
  each_group(counts, [&](std::int64_t group, Interval rows) {
    const std::int64_t length = rows.size() + least;
    const auto output_at = [&](std::int64_t place) {
      const std::int64_t number = (place - begin + length - 1) / length;
      return std::min(w.outputs, std::clamp<std::int64_t>(number, 0, blocks) * block);
    };
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Interval outputs{
          output_at(std::max(begin, whole * std::int64_t(i) / std::ssize(parts))),
          output_at(std::max(begin, whole * std::int64_t(i + 1) / std::ssize(parts)))};
      if (outputs.size() > 0) parts[i].push_back({group, rows, outputs, {0, w.inputs}});
    }
    begin += length * blocks;
  });
  return parts;
}

}  // namespace pf
