#include "core/cpu/plain_products.h"

#include <algorithm>

#include "core/aligned.h"

namespace pf {

template <class T>
std::size_t PlainProducts<T>::scratch_bytes(const Packed& w, i64 rows) const {
  return gemm_.scratch_bytes(w.outputs, rows);
}

// Panels of the weights; for weight gradients each worker's scratch, then panels of x.
template <class T>
std::size_t PlainProducts<T>::workspace(i64 rows, const Packed& w) const {
  i64 forward = 0;
  for (const Tensor& part : w.parts) forward += gemm_.packed_size(w.inputs, outputs_of(part));
  const i64 backward = gemm_.packed_size(w.outputs, w.inputs);
  const i64 panels = std::max({w.groups * forward, w.groups * backward,  //
                               gemm_.packed_size(rows, w.inputs)});
  return std::size_t(workers_.count()) * scratch_bytes(w, rows) +
         aligned(std::size_t(panels) * sizeof(T));
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
void PlainProducts<T>::weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                       const Tensor& x, const Packed& w,
                                       std::span<const i64> counts, std::byte* work) const {
  const std::size_t scratch = scratch_bytes(w, x.rows());
  auto* panels = reinterpret_cast<T*>(work + std::size_t(workers_.count()) * scratch);
  std::vector<Right> rights;
  each_group(counts, [&](i64, Interval rows) {
    rights.push_back({{element<T>(x, rows.begin), x.pitch()},
                      rows.size(),
                      w.inputs,
                      gemm_.panels(panels, rows.size())});
    panels += gemm_.packed_size(rows.size(), w.inputs);
  });
  pack(rights);
  const auto parts = pieces_of(w, counts, workers_.count());
  workers_.each(std::ssize(parts), [&](i64 i, int worker) {
    for (const auto& [group, rows, outputs, inputs] : parts[std::size_t(i)])
      each_part(dws, outputs,
                [&, g = group, rows = rows, inputs = inputs](const GradientTarget& dw,
                                                             Interval of_part, i64 at) {
                  const Right& right = rights[std::size_t(g)];
                  gemm_.run(weights<T>(dw.tensor, g, of_part.begin, inputs.begin), w.inputs,
                            {element<T>(dy, rows.begin, at), dy.pitch(), true},
                            right.panels.from(0, inputs.begin),
                            {of_part.size(), inputs.size(), rows.size(), dw.adds},
                            work + std::size_t(worker) * scratch);
                });
  });
}

template class PlainProducts<float>;
template class PlainProducts<double>;

}  // namespace pf
