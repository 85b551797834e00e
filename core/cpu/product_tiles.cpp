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

// What is divided is the longer of outputs and inputs, as each piece packs anew what it takes of
// the shorter. Blocks of it, of what loops take at a time, of all groups stand in a line, each as
// long as its group has rows.
std::vector<std::vector<Piece>> pieces_of(const Packed& w, std::span<const std::int64_t> counts,
                                          int workers) {
  constexpr std::int64_t least = 8;  // rows that writing zeros is worth
  const std::int64_t groups = std::ssize(counts);
  const bool by_inputs = w.inputs > w.outputs;
  const std::int64_t block = by_inputs || w.type == DType::bf16 ? gemm_block : whole_tiles;
  const std::int64_t divided = by_inputs ? w.inputs : w.outputs;
  const std::int64_t blocks = (divided + block - 1) / block;
  std::vector<std::vector<Piece>> parts(std::size_t(groups > workers ? 4 * workers : workers));
  std::int64_t whole = 0, begin = 0;
  for (const std::int64_t count : counts) whole += (count + least) * blocks;
  each_group(counts, [&](std::int64_t group, Interval rows) {
    const std::int64_t length = rows.size() + least;
    const auto place_at = [&](std::int64_t place) {
      const std::int64_t number = (place - begin + length - 1) / length;
      return std::min(divided, std::clamp<std::int64_t>(number, 0, blocks) * block);
    };
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Interval mine{
          place_at(std::max(begin, whole * std::int64_t(i) / std::ssize(parts))),
          place_at(std::max(begin, whole * std::int64_t(i + 1) / std::ssize(parts)))};
      if (mine.size() == 0) continue;
      if (by_inputs)
        parts[i].push_back({group, rows, {0, w.outputs}, mine});
      else
        parts[i].push_back({group, rows, mine, {0, w.inputs}});
    }
    begin += length * blocks;
  });
  return parts;
}

}  // namespace pf
