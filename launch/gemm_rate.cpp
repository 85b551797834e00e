#include "launch/gemm_rate.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/ops/linear.h"

namespace pf {
namespace {

class Products {
 public:
  Products(Pack& pack, std::int64_t rows, DType type)
      : pack_(&pack), weight_(&borrow(pack, type).packed) {
    Device& device = pack.parts()[0]->value().device();
    const std::int64_t groups = weight_->groups;
    for (std::int64_t g = 0; g < groups; ++g)
      counts_.push_back(rows * (g + 1) / groups - rows * g / groups);
    x_ = Tensor::zeros({rows, weight_->inputs}, type, device);
    y_ = Tensor::zeros({rows, weight_->outputs}, type, device);
    const auto bytes = std::int64_t(device.backend().product_workspace(rows, *weight_));
    work_ = Tensor::empty({bytes}, DType::u8, device);
  }
  void run() {
    Backend& on = backend(x_);
    on.product(y_, x_, *weight_, counts_, work_);
    on.product_input_gradient(x_, y_, *weight_, counts_, work_);
    add_weight_gradients(x_, y_, *pack_, counts_);
  }

 private:
  Pack* pack_;
  const Packed* weight_;
  std::vector<std::int64_t> counts_;
  Tensor x_, y_, work_;
};

// Weights that tp does not cut meet this rank's own tokens, the others those of all ranks of tp.
std::int64_t rows_of(const Pack& pack, const Mesh& mesh, std::int64_t tokens, std::int64_t top_k) {
  const Label& label = pack.parts()[0]->label();
  const std::int64_t of_cp = tokens / mesh.size(axes::cp), own = of_cp / mesh.size(axes::tp);
  if (label.view == View::expert) return own * top_k * mesh.size(axes::etp);
  return is_varying(label[Axis::kv]) ? of_cp : own;
}

}  // namespace

double gemm_seconds(Layers& layers, const Mesh& mesh, std::int64_t tokens, std::int64_t top_k,
                    DType type) {
  std::vector<Products> products;
  for (const auto& layer : layers)
    layer->visit({.pack = [&](Pack& pack) {
      // The router works in the accumulation type, whatever the activations' is.
      const bool is_router = pack.name().ends_with(".router");
      products.emplace_back(pack, rows_of(pack, mesh, tokens, top_k),
                            is_router ? accumulation(type) : type);
    }});
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (Products& p : products) p.run();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (round > 0) best = best == 0 ? taken.count() : std::min(best, taken.count());
  }
  return best;
}

}  // namespace pf
