#include "launch/gemm_rate.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/ops/linear.h"

namespace pf {
namespace {

// Seconds for the products of one weight; memory is that of one product at a time.
double seconds_of(Pack& pack, std::int64_t rows, DType type, Device& device) {
  const Packed& weight = borrow(pack, type).packed;
  std::vector<std::int64_t> counts;
  for (std::int64_t g = 0; g < weight.groups; ++g)
    counts.push_back(rows * (g + 1) / weight.groups - rows * g / weight.groups);
  const Tensor x = Tensor::zeros({rows, weight.inputs}, type, device);
  const Tensor y = Tensor::zeros({rows, weight.outputs}, type, device);
  const auto bytes = std::int64_t(device.backend().product_workspace(rows, weight));
  const Tensor work = Tensor::empty({bytes}, DType::u8, device);
  const auto begin = std::chrono::steady_clock::now();
  device.backend().product(y, x, weight, counts, work);
  device.backend().product_input_gradient(x, y, weight, counts, work);
  add_weight_gradients(x, y, pack, counts);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Weights that tp does not cut meet this rank's own tokens, the others those of all ranks of tp.
std::int64_t rows_of(const Pack& pack, const Mesh& mesh, std::int64_t tokens, std::int64_t top_k) {
  const Label& label = pack.parts()[0]->label();
  const std::int64_t of_cp = tokens / mesh.size(axes::cp), own = of_cp / mesh.size(axes::tp);
  if (label.view == View::expert) return own * top_k * mesh.size(axes::etp);
  return is_varying(label[Axis::kv]) ? of_cp : own;
}

}  // namespace

double gemm_seconds(Layers& layers, Gradients& gradients, const Mesh& mesh, std::int64_t tokens,
                    std::int64_t top_k, DType type) {
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    double taken = 0;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const Gradients::Use weights = gradients.use(l, l + 1);
      layers[l]->visit({.pack = [&](Pack& pack) {
        // The router works in the accumulation type, whatever the activations' is.
        const bool is_router = pack.name().ends_with(".router");
        taken += seconds_of(pack, rows_of(pack, mesh, tokens, top_k),
                            is_router ? accumulation(type) : type, mesh.device());
      }});
      gradients.clear();
    }
    if (round > 0) best = best == 0 ? taken : std::min(best, taken);
  }
  return best;
}

}  // namespace pf
