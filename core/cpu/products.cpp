#include "core/cpu/products.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/aligned.h"
#include "core/cpu/bf16_gemm.h"
#include "core/cpu/plain_products.h"
#include "core/cpu/product_tiles.h"

namespace pf {
namespace {

// Outputs of one product of a weight gradient.
constexpr std::int64_t chunk_outputs = 256;
constexpr std::int64_t pack_outputs = 64;

std::byte* bytes_of(const Tensor& work) {
  return work ? static_cast<std::byte*>(work.raw()) : nullptr;
}

}  // namespace

struct Products::State {
  Workers& workers;
  Isa isa = Isa::base;
  Bf16Gemm gemm{isa};
  PlainProducts<float> singles{workers, isa};
  PlainProducts<double> doubles{workers, isa};

  std::size_t pack_bytes(const Packed& w) const {
    return aligned(std::size_t(pack_outputs * w.inputs) * sizeof(Bf16));
  }
  std::size_t gemm_bytes(const Packed& w) const {
    return aligned(gemm.scratch_bytes(std::max({w.inputs, w.outputs, gradient_rows})));
  }
  std::size_t chunk_bytes(const Packed& w) const {
    return aligned(std::size_t(blocked_size(gradient_rows, w.inputs)) * sizeof(Bf16));
  }
  // A worker's: of products, then a chunk of x in panels, then one of dy', [outputs, rows].
  std::size_t worker_bytes(const Packed& w) const {
    return gemm_bytes(w) + chunk_bytes(w) +
           std::size_t(chunk_outputs * gradient_rows) * sizeof(Bf16);
  }

  void pack_outputs_of(Packed& w, std::int64_t group, Interval outputs, const Bf16* plain) const {
    const std::int64_t first = group * blocked_size(w.inputs, w.outputs);
    auto* forward = reinterpret_cast<Bf16*>(w.forward.data<std::uint8_t>()) + first;
    auto* backward = reinterpret_cast<Bf16*>(w.backward.data<std::uint8_t>()) + first;
    gemm.pack(gemm.panels(forward, w.inputs).from(0, outputs.begin), {plain, w.inputs, true},
              w.inputs, outputs.size());
    gemm.pack(gemm.panels(backward, w.outputs).from(outputs.begin, 0), {plain, w.inputs},
              outputs.size(), w.inputs);
  }

  // y[:, columns] = x B, with a B [inputs, outputs] for each group in `blocks`.
  template <class T>
  void blocked_product(const Tensor& y, const Tensor& x, const Tensor& blocks,
                       std::span<const std::int64_t> counts, std::byte* work,
                       std::size_t work_bytes) const {
    auto* b = reinterpret_cast<Bf16*>(blocks.data<std::uint8_t>());
    const std::int64_t inputs = x.columns(), outputs = y.columns();
    const std::vector<Tile> tiles = tiles_of(counts, workers.count());
    workers.each(std::ssize(tiles), [&](std::int64_t i, int worker) {
      const Tile& tile = tiles[std::size_t(i)];
      const Interval columns = tile.columns(outputs);
      const Panels<Bf16> all = gemm.panels(b + tile.group * blocked_size(inputs, outputs), inputs);
      gemm.run(element<T>(y, tile.rows.begin, columns.begin), y.pitch(),
               {element<Bf16>(x, tile.rows.begin), x.pitch()}, all.from(0, columns.begin),
               {tile.rows.size(), columns.size(), inputs}, work + std::size_t(worker) * work_bytes);
    });
  }

  // dw (+)= dy' x of a piece of any size; outputs are the stacked ones.
  void gradient(std::span<const GradientTarget> dws, const Tensor& dy, const Tensor& x,
                const Packed& w, const Piece& piece, std::byte* work) const {
    auto* b = reinterpret_cast<Bf16*>(work + gemm_bytes(w));
    auto* a = reinterpret_cast<Bf16*>(work + gemm_bytes(w) + chunk_bytes(w));
    each_chunk(piece.rows, [&](Interval chunk) {
      const std::int64_t k = chunk.size(), inputs = piece.inputs.size();
      const Panels<Bf16> panels = gemm.panels(b, k);
      gemm.pack(panels, {element<Bf16>(x, chunk.begin, piece.inputs.begin), x.pitch()}, k, inputs);
      for (std::int64_t first = piece.outputs.begin; first < piece.outputs.end;
           first += chunk_outputs) {
        const Interval some{first, std::min(piece.outputs.end, first + chunk_outputs)};
        gemm.transpose(a, gradient_rows, element<Bf16>(dy, chunk.begin, first), dy.pitch(), k,
                       some.size());
        each_part(dws, some, [&](const GradientTarget& dw, Interval of_part, std::int64_t at) {
          gemm.run(
              weights<float>(dw.tensor, piece.group, of_part.begin, piece.inputs.begin), w.inputs,
              {a + (at - first) * gradient_rows, gradient_rows}, panels,
              {of_part.size(), inputs, in_blocks(k), dw.adds || chunk.begin > piece.rows.begin},
              work);
        });
      }
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
          const Interval outputs{first, std::min(w.outputs, first + pack_outputs)};
          each_part(w.parts, outputs, [&](const Tensor& part, Interval of_part, std::int64_t at) {
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
  if (w.type == DType::f64) return state_->doubles.workspace(rows, w);
  if (w.type == DType::f32) return state_->singles.workspace(rows, w);
  return std::size_t(state_->workers.count()) * state_->worker_bytes(w);
}

void Products::product(const Tensor& y, const Tensor& x, const Packed& w,
                       std::span<const std::int64_t> counts, const Tensor& work) {
  if (w.type == DType::f64) return state_->doubles.product(y, x, w, counts, bytes_of(work));
  if (w.type == DType::f32) return state_->singles.product(y, x, w, counts, bytes_of(work));
  const auto run =
      y.dtype() == DType::bf16 ? &State::blocked_product<Bf16> : &State::blocked_product<float>;
  (state_.get()->*run)(y, x, w.forward, counts, bytes_of(work), state_->worker_bytes(w));
}

void Products::product_input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                                      std::span<const std::int64_t> counts, const Tensor& work) {
  if (w.type == DType::f64)
    return state_->doubles.input_gradient(dx, dy, w, counts, bytes_of(work));
  if (w.type == DType::f32)
    return state_->singles.input_gradient(dx, dy, w, counts, bytes_of(work));
  const auto run =
      dx.dtype() == DType::bf16 ? &State::blocked_product<Bf16> : &State::blocked_product<float>;
  (state_.get()->*run)(dx, dy, w.backward, counts, bytes_of(work), state_->worker_bytes(w));
}

void Products::product_weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                       const Tensor& x, const Packed& w,
                                       std::span<const std::int64_t> counts, const Tensor& work) {
  if (w.type == DType::f64)
    return state_->doubles.weight_gradient(dws, dy, x, w, counts, bytes_of(work));
  if (w.type == DType::f32)
    return state_->singles.weight_gradient(dws, dy, x, w, counts, bytes_of(work));
  const auto parts = pieces_of(w, counts, state_->workers.count());
  const std::size_t bytes = state_->worker_bytes(w);
  state_->workers.each(std::ssize(parts), [&](std::int64_t i, int worker) {
    for (const Piece& piece : parts[std::size_t(i)])
      state_->gradient(dws, dy, x, w, piece, bytes_of(work) + std::size_t(worker) * bytes);
  });
}

}  // namespace pf
