// Parameters held in every way, with gradients that are known.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/gradients.h"

namespace pf {

// What one rank adds to element i of the gradient of parameter `number`: small integers, so that
// sums are exact in any order.
inline double share(int rank, int number, std::int64_t i) {
  return double((7 * i + 11 * number + 5 * rank * rank + rank) % 13) - 6;
}

// A few parameters in layers, as one rank holds them.
struct Model {
  std::vector<std::unique_ptr<Parameter>> parameters;
  std::vector<LayerWeights> layers;

  void add(std::size_t layer, const Mesh& mesh, const Shape& whole, const Label& label,
           DType type = DType::f64) {
    const std::string name = "p" + std::to_string(parameters.size());
    const Block block = mesh.place(name, whole, label);
    parameters.push_back(std::make_unique<Parameter>(name, whole, block, label, Init::zeros));
    parameters.back()->initialise(mesh.device(), type, 0, 0);
    layers.resize(std::max(layers.size(), layer + 1));
    layers[layer].parameters.push_back(parameters.back().get());
  }

  // As backward would; `adds` more than one micro-batch's worth.
  template <class T>
  void write(const Mesh& mesh, std::size_t layer, int adds = 1) {
    for (std::size_t number = 0; number < parameters.size(); ++number) {
      Parameter* p = parameters[number].get();
      if (std::ranges::count(layers[layer].parameters, p) == 0) continue;
      for (int k = 0; k < adds; ++k) {
        const GradientTarget target = p->gradient_target();
        T* to = target.tensor.data<T>();
        for (std::int64_t i = 0; i < p->size(); ++i)
          to[i] = T(share(mesh.rank(), int(number), i)) + (target.adds ? to[i] : T(0));
      }
    }
  }
};

// Every way to hold a parameter, in odd sizes.
inline Model make_model(const Mesh& mesh, DType type = DType::f64) {
  using enum Spread;
  Model model;
  const Label everywhere = dense(replicated, replicated, replicated);
  model.add(0, mesh, {7, 12}, everywhere, type);
  model.add(0, mesh, {12}, everywhere, type);
  model.add(1, mesh, {12, 5}, dense(rows, replicated, replicated), type);
  model.add(1, mesh, {5, 12}, dense(columns, replicated, replicated), type);
  model.add(1, mesh, {5}, everywhere, type);
  model.add(2, mesh, {12, 3, 6}, expert(replicated, experts, replicated), type);
  model.add(2, mesh, {12, 6, 3}, expert(replicated, experts, replicated), type);
  model.add(2, mesh, {9}, dense(invariant, replicated, replicated), type);
  model.add(3, mesh, {3, 3}, everywhere, type);
  return model;
}

inline const Layout layouts[] = {
    {},
    {.dp = 2, .edp = 2},
    {.dp = 3, .edp = 3},
    {.dp = 4, .edp = 4},
    {.kv = 2, .cp = 1, .dp = 2, .etp = 1, .ep = 2, .edp = 2},
    {.share = 2, .cp = 2, .dp = 1, .etp = 2, .ep = 1, .edp = 2},
    {.kv = 2, .cp = 2, .dp = 2, .etp = 1, .ep = 4, .edp = 2},
};

}  // namespace pf
