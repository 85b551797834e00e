#include "core/cpu/plain_products.h"

#include <algorithm>

#include "core/aligned.h"

namespace pf {

template <class T>
typename PlainProducts<T>::Scratch PlainProducts<T>::scratch(std::byte* work, i64 rows,
                                                             const Packed& w) const {
  rows = std::min(rows, gradient_rows);
  Cutter cutter(work);
  Scratch found{};
  found.gemm = cutter.cut<std::byte>(i64(gemm_.scratch_bytes(w.outputs, rows)));
  found.panels = cutter.cut<T>(gemm_.packed_size(rows, w.inputs));
  found.bytes = cutter.bytes();
  return found;
}

// Panels of the weights, or what workers have.
template <class T>
std::size_t PlainProducts<T>::workspace(i64 rows, const Packed& w) const {
  i64 forward = 0;
  for (const Tensor& part : w.parts) forward += gemm_.packed_size(w.inputs, outputs_of(part));
  const i64 panels = w.groups * std::max(forward, gemm_.packed_size(w.outputs, w.inputs));
  return std::max(std::size_t(panels) * sizeof(T),
                  std::size_t(workers_.count()) * scratch(nullptr, rows, w).bytes);
}

template <class T>
void PlainProducts<T>::pack(const std::vector<Right>& all) const {
  // Where B is transposed, some of its columns are what lies together.
  constexpr i64 most_rows = 256, most_columns = 64;
  static_assert(most_columns % gemm_block == 0);
  struct Task {
    const Right* right;
    i64 at;
  };
  std::vector<Task> tasks;
  for (const Right& right : all) {
    const bool by_columns = right.b.transposed;
    const i64 size = by_columns ? right.n : right.k, step = by_columns ? most_columns : most_rows;
    for (i64 at = 0; at < size; at += step) tasks.push_back({&right, at});
  }
  workers_.each(std::ssize(tasks), [&](i64 i, int) {
    const auto& [right, at] = tasks[std::size_t(i)];
    const Matrix<T>& b = right->b;
    const i64 k = right->k, n = right->n;
    if (b.transposed)
      gemm_.pack(right->panels.from(0, at), b.from(0, at), k, std::min(most_columns, n - at));
    else
      gemm_.pack(right->panels.from(at, 0), b.from(at, 0), std::min(most_rows, k - at), n);
  });
}

template <class T>
void PlainProducts<T>::multiply(const Tensor& y, const Tensor& x, const Packed& w,
                                std::span<const i64> counts, bool is_forward,
                                std::byte* work) const {
  std::vector<Right> rights;  // of each part of each group
  auto* panels = reinterpret_cast<T*>(work);
  each_group(counts, [&](i64 group, Interval rows) {
    each_part(w.parts, {0, w.outputs}, [&](const Tensor& part, Interval outputs, i64 at) {
      const Matrix<T> b{weights<T>(part, group, 0), w.inputs, is_forward};
      Right right = is_forward ? Right{b, w.inputs, outputs.size(), {}, 0, at, false}
                               : Right{b, outputs.size(), w.inputs, {}, at, 0, at > 0};
      if (rows.size() == 0) right.k = right.n = 0;
      right.panels = gemm_.panels(panels, right.k);
      panels += gemm_.packed_size(right.k, right.n);
      rights.push_back(right);
    });
  });
  pack(rights);
  const std::vector<Tile> tiles = tiles_of(counts, workers_.count());
  const std::size_t parts = rights.size() / std::size_t(w.groups);
  workers_.each(std::ssize(tiles), [&](i64 i, int) {
    const Tile& tile = tiles[std::size_t(i)];
    for (const Right& right : std::span(rights).subspan(std::size_t(tile.group) * parts, parts)) {
      const Interval columns = tile.columns(right.n);
      gemm_.run(element<T>(y, tile.rows.begin, right.to + columns.begin), y.pitch(),
                {element<T>(x, tile.rows.begin, right.from), x.pitch()},
                right.panels.from(0, columns.begin),
                {tile.rows.size(), columns.size(), right.k, right.adds}, nullptr);
    }
  });
}

template <class T>
void PlainProducts<T>::product(const Tensor& y, const Tensor& x, const Packed& w,
                               std::span<const i64> counts, std::byte* work) const {
  multiply(y, x, w, counts, true, work);
}

template <class T>
void PlainProducts<T>::input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                                      std::span<const i64> counts, std::byte* work) const {
  multiply(dx, dy, w, counts, false, work);
}

template <class T>
void PlainProducts<T>::gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                const Tensor& x, const Packed& w, const Piece& piece,
                                const Scratch& scratch) const {
  each_chunk(piece.rows, [&](Interval chunk) {
    const i64 k = chunk.size(), inputs = piece.inputs.size();
    const Panels<T> panels = gemm_.panels(scratch.panels, k);
    gemm_.pack(panels, {element<T>(x, chunk.begin, piece.inputs.begin), x.pitch()}, k, inputs);
    each_part(dws, piece.outputs, [&](const GradientTarget& dw, Interval of_part, i64 at) {
      gemm_.run(weights<T>(dw.tensor, piece.group, of_part.begin, piece.inputs.begin), w.inputs,
                {element<T>(dy, chunk.begin, at), dy.pitch(), true}, panels,
                {of_part.size(), inputs, k, dw.adds || chunk.begin > piece.rows.begin},
                scratch.gemm);
    });
  });
}

template <class T>
void PlainProducts<T>::weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                       const Tensor& x, const Packed& w,
                                       std::span<const i64> counts, std::byte* work) const {
  const auto parts = pieces_of(w, counts, workers_.count());
  const std::size_t bytes = scratch(nullptr, x.rows(), w).bytes;
  workers_.each(std::ssize(parts), [&](i64 i, int worker) {
    for (const Piece& piece : parts[std::size_t(i)])
      gradient(dws, dy, x, w, piece, scratch(work + std::size_t(worker) * bytes, x.rows(), w));
  });
}

template class PlainProducts<float>;
template class PlainProducts<double>;

}  // namespace pf
