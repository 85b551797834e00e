// What workers take at a time of the products with weights, and where that lies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/backend.h"
#include "core/cpu/bf16_gemm.h"
#include "core/cpu/interval.h"
#include "core/tensor.h"

namespace pf {

// Share i of `count` of [0, size): whole blocks but at the end; may be empty.
Interval share_of(std::int64_t size, std::int64_t i, std::int64_t count);

// What a worker makes at a time of y = x w': some rows of a group, and all columns but where rows
// are few; then a share of the columns.
struct Tile {
  std::int64_t group = 0;
  Interval rows;
  std::int64_t share = 0, shares = 1;

  Interval columns(std::int64_t all) const { return share_of(all, share, shares); }
};

// Of groups in a line: small enough that workers end together, large enough that what they read of
// w is used for many rows.
std::vector<Tile> tiles_of(std::span<const std::int64_t> counts, int workers);

// Rows whose outer products are added up at a time in a weight gradient: what a worker takes of dy
// and of x stays in the second-level cache.
constexpr std::int64_t gradient_rows = 512;

// A part of a weight gradient: outputs x inputs of a group, from its rows.
struct Piece {
  std::int64_t group = 0;
  Interval rows, outputs, inputs;
};

// What workers take at a time of a weight gradient: pieces that cost as much as others'.
std::vector<std::vector<Piece>> pieces_of(const Packed& w, std::span<const std::int64_t> counts,
                                          int workers);

// f(group, rows of it) for groups in a line.
template <class F>
void each_group(std::span<const std::int64_t> counts, F f) {
  std::int64_t begin = 0;
  for (std::size_t group = 0; group < counts.size(); begin += counts[group++])
    f(std::int64_t(group), Interval{begin, begin + counts[group]});
}

inline std::int64_t outputs_of(const Tensor& part) {
  return part.extent(-2);
}
inline std::int64_t outputs_of(const GradientTarget& part) {
  return part.tensor.extent(-2);
}

// f(rows of it) for chunks of equal size but the last; of no rows, one that is empty.
template <class F>
void each_chunk(Interval rows, F f) {
  const std::int64_t chunks =
      std::max<std::int64_t>(1, (rows.size() + gradient_rows - 1) / gradient_rows);
  const std::int64_t size = in_blocks((rows.size() + chunks - 1) / chunks);
  std::int64_t begin = rows.begin;
  do {
    f(Interval{begin, std::min(begin + size, rows.end)});
    begin += size;
  } while (begin < rows.end);
}

// f(part, columns of the part, the first one's place among the stacked) for what parts have of
// `columns`. Weights and their gradients are [.., outputs of the part, inputs].
template <class Parts, class F>
void each_part(const Parts& parts, Interval columns, F f) {
  std::int64_t begin = 0;
  for (const auto& part : parts) {
    const std::int64_t outputs = outputs_of(part);
    const Interval mine = common(columns, {begin, begin + outputs});
    if (mine.size() > 0) f(part, Interval{mine.begin - begin, mine.end - begin}, mine.begin);
    begin += outputs;
  }
}

template <class T>
T* element(const Tensor& x, std::int64_t row, std::int64_t column = 0) {
  return x.data<T>() + row * x.pitch() + column;
}

// The weight of one group in one part, from row `output` and column `input` on.
template <class T>
T* weights(const Tensor& part, std::int64_t group, std::int64_t output, std::int64_t input = 0) {
  return part.data<T>() + (group * part.extent(-2) + output) * part.extent(-1) + input;
}

}  // namespace pf
