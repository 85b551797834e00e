#include "core/cpu/products.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <type_traits>
#include <vector>

#include "core/aligned.h"
#include "core/cpu/bf16_gemm.h"
#include "core/cpu/gemm.h"
#include "core/error.h"

namespace pf {
namespace {

// Rows whose outer products are added up at a time, and outputs of one such product: what they take
// of dy and of x stays in the second-level cache.
constexpr std::int64_t chunk_rows = 512, chunk_outputs = 256;
constexpr std::int64_t pack_outputs = 64;

struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

Range common(Range a, Range b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// What a worker makes at a time of y = x w': some rows of a group, and all columns but where rows
// are few.
struct Tile {
  std::int64_t group = 0;
  Range rows, columns;
};

// What a worker makes at a time of a weight gradient: outputs x inputs of a group, from its rows.
struct Piece {
  std::int64_t group = 0;
  Range rows, outputs, inputs;
};

// f(range) for [0, size) in `count` ranges of whole blocks of 32 where that many are there.
template <class F>
void each_range(std::int64_t size, std::int64_t count, F f) {
  const std::int64_t blocks = in_blocks(size) / gemm_block;
  for (std::int64_t i = 0; i < count; ++i) {
    const Range range{std::min(size, blocks * i / count * gemm_block),
                      std::min(size, blocks * (i + 1) / count * gemm_block)};
    if (range.size() > 0) f(range);
  }
}

// f(group, rows of it) for groups in a line.
template <class F>
void each_group(std::span<const std::int64_t> counts, F f) {
  std::int64_t begin = 0;
  for (std::size_t group = 0; group < counts.size(); begin += counts[group++])
    f(std::int64_t(group), Range{begin, begin + counts[group]});
}

// Small enough that workers end together, large enough that weights are not packed too often.
std::vector<Tile> tiles_of(std::int64_t columns, std::span<const std::int64_t> counts,
                           int workers) {
  constexpr std::int64_t least = 128, most = 512, tiles_a_worker = 8;
  std::int64_t whole = 0;
  for (const std::int64_t count : counts) whole += count;
  const std::int64_t rows_a_tile = std::clamp(whole / (tiles_a_worker * workers), least, most);
  const std::int64_t across = whole >= 2 * gemm_block * workers ? 1 : workers;
  std::vector<Tile> tiles;
  each_group(counts, [&](std::int64_t group, Range of_group) {
    const std::int64_t count = (of_group.size() + rows_a_tile - 1) / rows_a_tile;
    each_range(of_group.size(), count, [&](Range rows) {
      each_range(columns, across, [&](Range range) {
        tiles.push_back({group, {of_group.begin + rows.begin, of_group.begin + rows.end}, range});
      });
    });
  });
  return tiles;
}

// What workers take at a time of a weight gradient: pieces that cost as much as others'. Blocks of
// 32 outputs of all groups stand in a line, each as long as its group has rows. One group's outputs
// may be too few: then inputs are divided.
std::vector<std::vector<Piece>> pieces_of(const Packed& w, std::span<const std::int64_t> counts,
                                          int workers) {
  constexpr std::int64_t least = 8;  // rows that writing zeros is worth
  // x is packed for each piece, which takes the less time the slower the products are.
  const std::int64_t blocks_a_part = 4, parts_a_worker = w.type == DType::bf16 ? 1 : 6;
  const std::int64_t blocks = in_blocks(w.outputs) / gemm_block, groups = std::ssize(counts);
  std::vector<std::vector<Piece>> parts;
  if (groups == 1 && blocks < workers) {
    each_range(w.inputs, workers, [&](Range inputs) {
      parts.push_back({{0, {0, counts[0]}, {0, w.outputs}, inputs}});
    });
    return parts;
  }
  parts.resize(std::size_t(std::clamp<std::int64_t>(groups * blocks / blocks_a_part, workers,
                                                    parts_a_worker * workers)));
  std::int64_t whole = 0, begin = 0;
  for (const std::int64_t count : counts) whole += (count + least) * blocks;
  each_group(counts, [&](std::int64_t group, Range rows) {
    const std::int64_t length = rows.size() + least;
    const auto output_at = [&](std::int64_t place) {
      const std::int64_t block = (place - begin + length - 1) / length;
      return std::min(w.outputs, std::clamp<std::int64_t>(block, 0, blocks) * gemm_block);
    };
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Range outputs{
          output_at(std::max(begin, whole * std::int64_t(i) / std::ssize(parts))),
          output_at(std::max(begin, whole * std::int64_t(i + 1) / std::ssize(parts)))};
      if (outputs.size() > 0) parts[i].push_back({group, rows, outputs, {0, w.inputs}});
    }
    begin += length * blocks;
  });
  return parts;
}

std::int64_t outputs_of(const Tensor& part) {
  return part.extent(-2);
}
std::int64_t outputs_of(const GradientTarget& part) {
  return part.tensor.extent(-2);
}

// f(part, columns of the part, the first one's place among the stacked) for what parts have of
// `columns`. Weights and their gradients are [.., outputs of the part, inputs].
template <class Parts, class F>
void each_part(const Parts& parts, Range columns, F f) {
  std::int64_t begin = 0;
  for (const auto& part : parts) {
    const std::int64_t outputs = outputs_of(part);
    const Range mine = common(columns, {begin, begin + outputs});
    if (mine.size() > 0) f(part, Range{mine.begin - begin, mine.end - begin}, mine.begin);
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

std::byte* bytes_of(const Tensor& work) {
  return work ? static_cast<std::byte*>(work.raw()) : nullptr;
}

}  // namespace

struct Products::State {
  Workers& workers;
  Isa isa = Isa::base;
  Bf16Gemm gemm{isa};
  Gemm<float> singles{isa};
  Gemm<double> doubles{isa};

  template <class T>
  const Gemm<T>& plain_gemm() const {
    if constexpr (std::is_same_v<T, float>)
      return singles;
    else
      return doubles;
  }

  std::size_t pack_bytes(const Packed& w) const {
    return aligned(std::size_t(pack_outputs * w.inputs) * sizeof(Bf16));
  }
  std::size_t gemm_bytes(const Packed& w) const {
    return aligned(gemm.scratch_bytes(std::max({w.inputs, w.outputs, chunk_rows})));
  }
  std::size_t chunk_bytes(const Packed& w) const {
    return aligned(std::size_t(blocked_size(chunk_rows, w.inputs)) * sizeof(Bf16));
  }
  // Of f32 or f64 products and gradients of `rows` rows.
  template <class T>
  std::size_t plain_bytes(const Packed& w, std::int64_t rows) const {
    const Gemm<T>& g = plain_gemm<T>();
    return aligned(
        std::max({g.scratch_bytes(0, w.outputs, w.inputs), g.scratch_bytes(0, w.inputs, w.outputs),
                  g.scratch_bytes(w.outputs, w.inputs, rows)}));
  }
  // A worker's; of bf16: of products, then a chunk of x in blocks, then one of dy', [outputs,
  // rows].
  std::size_t worker_bytes(const Packed& w, std::int64_t rows) const {
    if (w.type == DType::f64) return plain_bytes<double>(w, rows);
    if (w.type == DType::f32) return plain_bytes<float>(w, rows);
    return gemm_bytes(w) + chunk_bytes(w) + std::size_t(chunk_outputs * chunk_rows) * sizeof(Bf16);
  }

  void pack_outputs_of(Packed& w, std::int64_t group, Range outputs, const Bf16* plain) const {
    const std::int64_t first = group * blocked_size(w.inputs, w.outputs);
    auto* forward = reinterpret_cast<Bf16*>(w.forward.data<std::uint8_t>()) + first;
    auto* backward = reinterpret_cast<Bf16*>(w.backward.data<std::uint8_t>()) + first;
    const std::int64_t panel = panel_size(w.inputs);
    gemm.block(forward + outputs.begin / gemm_block * panel, panel, {plain, w.inputs, true},
               w.inputs, outputs.size());
    gemm.block(backward + outputs.begin * gemm_block, panel_size(w.outputs), {plain, w.inputs},
               outputs.size(), w.inputs);
  }

  // y[:, columns] = x B, with a B [inputs, outputs] for each group in `blocks`.
  template <class T>
  void blocked_product(const Tensor& y, const Tensor& x, const Tensor& blocks,
                       std::span<const std::int64_t> counts, std::byte* work,
                       std::size_t work_bytes) const {
    const auto* b = reinterpret_cast<const Bf16*>(blocks.data<std::uint8_t>());
    const std::int64_t inputs = x.columns(), outputs = y.columns();
    const std::vector<Tile> tiles = tiles_of(outputs, counts, workers.count());
    workers.each(std::ssize(tiles), [&](std::int64_t i, int worker) {
      const auto& [group, rows, columns] = tiles[std::size_t(i)];
      const Blocked all{b + group * blocked_size(inputs, outputs), panel_size(inputs)};
      gemm.run(element<T>(y, rows.begin, columns.begin), y.pitch(), element<Bf16>(x, rows.begin),
               x.pitch(), all.from(0, columns.begin), {rows.size(), columns.size(), inputs},
               work + std::size_t(worker) * work_bytes);
    });
  }

  // dw (+)= dy' x; outputs are the stacked ones.
  void blocked_gradient(std::span<const GradientTarget> dws, const Tensor& dy, const Tensor& x,
                        const Packed& w, const Piece& piece, std::byte* work) const {
    const auto& [group, rows, outputs, inputs] = piece;
    auto* b = reinterpret_cast<Bf16*>(work + gemm_bytes(w));
    auto* a = reinterpret_cast<Bf16*>(work + gemm_bytes(w) + chunk_bytes(w));
    for (std::int64_t row = rows.begin; row < rows.end; row += chunk_rows) {
      const std::int64_t k = std::min(chunk_rows, rows.end - row);
      gemm.block(b, panel_size(k), {element<Bf16>(x, row, inputs.begin), x.pitch()}, k,
                 inputs.size());
      for (std::int64_t first = outputs.begin; first < outputs.end; first += chunk_outputs) {
        const Range some{first, std::min(outputs.end, first + chunk_outputs)};
        gemm.transpose(a, chunk_rows, element<Bf16>(dy, row, first), dy.pitch(), k, some.size());
        each_part(dws, some, [&](const GradientTarget& dw, Range of_part, std::int64_t at) {
          gemm.run(weights<float>(dw.tensor, piece.group, of_part.begin, piece.inputs.begin),
                   w.inputs, a + (at - first) * chunk_rows, chunk_rows, {b, panel_size(k)},
                   {of_part.size(), piece.inputs.size(), in_blocks(k),
                    dw.adds || row > piece.rows.begin},
                   work);
        });
      }
    }
  }

  template <class T>
  void product(const Tensor& y, const Tensor& x, const Packed& w,
               std::span<const std::int64_t> counts, std::byte* work,
               std::size_t work_bytes) const {
    const std::vector<Tile> tiles = tiles_of(w.outputs, counts, workers.count());
    workers.each(std::ssize(tiles), [&](std::int64_t i, int worker) {
      const Tile& tile = tiles[std::size_t(i)];
      each_part(w.parts, tile.columns, [&](const Tensor& part, Range outputs, std::int64_t at) {
        plain_gemm<T>().run(element<T>(y, tile.rows.begin, at), y.pitch(),
                            {element<T>(x, tile.rows.begin), x.pitch()},
                            {weights<T>(part, tile.group, outputs.begin), w.inputs, true},
                            {tile.rows.size(), outputs.size(), w.inputs},
                            work + std::size_t(worker) * work_bytes);
      });
    });
  }

  template <class T>
  void input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                      std::span<const std::int64_t> counts, std::byte* work,
                      std::size_t work_bytes) const {
    const std::vector<Tile> tiles = tiles_of(w.inputs, counts, workers.count());
    workers.each(std::ssize(tiles), [&](std::int64_t i, int worker) {
      const Tile& tile = tiles[std::size_t(i)];
      each_part(w.parts, {0, w.outputs}, [&](const Tensor& part, Range outputs, std::int64_t at) {
        plain_gemm<T>().run(element<T>(dx, tile.rows.begin, tile.columns.begin), dx.pitch(),
                            {element<T>(dy, tile.rows.begin, at), dy.pitch()},
                            {weights<T>(part, tile.group, 0) + tile.columns.begin, w.inputs},
                            {tile.rows.size(), tile.columns.size(), outputs.size(), at > 0},
                            work + std::size_t(worker) * work_bytes);
      });
    });
  }

  template <class T>
  void weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy, const Tensor& x,
                       const Packed& w, const Piece& piece, std::byte* work) const {
    const std::int64_t row = piece.rows.begin, input = piece.inputs.begin;
    each_part(dws, piece.outputs, [&](const GradientTarget& dw, Range of_part, std::int64_t at) {
      plain_gemm<T>().run(weights<T>(dw.tensor, piece.group, of_part.begin, input), w.inputs,
                          {element<T>(dy, row, at), dy.pitch(), true},
                          {element<T>(x, row, input), x.pitch()},
                          {of_part.size(), piece.inputs.size(), piece.rows.size(), dw.adds}, work);
    });
  }

  void weight_gradient_of(std::span<const GradientTarget> dws, const Tensor& dy, const Tensor& x,
                          const Packed& w, const Piece& piece, std::byte* work) const {
    if (w.type == DType::f64) return weight_gradient<double>(dws, dy, x, w, piece, work);
    if (w.type == DType::f32) return weight_gradient<float>(dws, dy, x, w, piece, work);
    if (piece.rows.size() > 0) return blocked_gradient(dws, dy, x, w, piece, work);
    each_part(dws, piece.outputs, [&](const GradientTarget& dw, Range of_part, std::int64_t) {
      for (std::int64_t r = of_part.begin; r < of_part.end && !dw.adds; ++r)
        std::fill_n(weights<float>(dw.tensor, piece.group, r, piece.inputs.begin),
                    piece.inputs.size(), 0.0f);
    });
  }
};

Products::Products(Workers& workers, Isa isa) : state_(new State{workers, isa}) {}

Products::~Products() = default;

std::size_t Products::packed_bytes(const Packed& w) {
  if (w.type != DType::bf16) return 0;
  return std::size_t(w.groups * blocked_size(w.inputs, w.outputs)) * sizeof(Bf16);
}

std::size_t Products::pack_workspace(const Packed& w) {
  if (w.type != DType::bf16) return 0;
  return std::size_t(state_->workers.count()) * state_->pack_bytes(w);
}

void Products::pack(Packed& w, const Tensor& work) {
  if (w.type != DType::bf16) return;
  const std::int64_t pieces = (w.outputs + pack_outputs - 1) / pack_outputs;
  state_->workers.split(
      w.groups * pieces, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
        auto* plain =
            reinterpret_cast<Bf16*>(bytes_of(work) + std::size_t(worker) * state_->pack_bytes(w));
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t group = i / pieces, first = i % pieces * pack_outputs;
          const Range outputs{first, std::min(w.outputs, first + pack_outputs)};
          each_part(w.parts, outputs, [&](const Tensor& part, Range of_part, std::int64_t at) {
            const float* from = weights<float>(part, group, of_part.begin);
            Bf16* to = plain + (at - first) * w.inputs;
            for (std::int64_t j = 0; j < of_part.size() * w.inputs; ++j) to[j] = Bf16(from[j]);
          });
          state_->pack_outputs_of(w, group, outputs, plain);
        }
      });
}

void Products::pack_group(Packed& w, std::int64_t group, const Bf16* plain, int /*worker*/) {
  state_->pack_outputs_of(w, group, {0, w.outputs}, plain);
}

std::size_t Products::product_workspace(std::int64_t rows, const Packed& w) {
  return std::size_t(state_->workers.count()) * state_->worker_bytes(w, rows);
}

void Products::product(const Tensor& y, const Tensor& x, const Packed& w,
                       std::span<const std::int64_t> counts, const Tensor& work) {
  const std::size_t bytes = state_->worker_bytes(w, x.rows());
  if (w.type == DType::f64) return state_->product<double>(y, x, w, counts, bytes_of(work), bytes);
  if (w.type == DType::f32) return state_->product<float>(y, x, w, counts, bytes_of(work), bytes);
  const auto run =
      y.dtype() == DType::bf16 ? &State::blocked_product<Bf16> : &State::blocked_product<float>;
  (state_.get()->*run)(y, x, w.forward, counts, bytes_of(work), bytes);
}

void Products::product_input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                                      std::span<const std::int64_t> counts, const Tensor& work) {
  const std::size_t bytes = state_->worker_bytes(w, dy.rows());
  if (w.type == DType::f64)
    return state_->input_gradient<double>(dx, dy, w, counts, bytes_of(work), bytes);
  if (w.type == DType::f32)
    return state_->input_gradient<float>(dx, dy, w, counts, bytes_of(work), bytes);
  const auto run =
      dx.dtype() == DType::bf16 ? &State::blocked_product<Bf16> : &State::blocked_product<float>;
  (state_.get()->*run)(dx, dy, w.backward, counts, bytes_of(work), bytes);
}

void Products::product_weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                       const Tensor& x, const Packed& w,
                                       std::span<const std::int64_t> counts, const Tensor& work) {
  const auto parts = pieces_of(w, counts, state_->workers.count());
  const std::size_t bytes = state_->worker_bytes(w, x.rows());
  state_->workers.each(std::ssize(parts), [&](std::int64_t i, int worker) {
    for (const Piece& piece : parts[std::size_t(i)])
      state_->weight_gradient_of(dws, dy, x, w, piece,
                                 bytes_of(work) + std::size_t(worker) * bytes);
  });
}

}  // namespace pf
