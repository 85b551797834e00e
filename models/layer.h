// The seam between a model and what runs it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/parameter.h"
#include "models/context.h"

namespace pf {

// The one reflection point: initialisation, sharding, optimizers, checkpoints and counting are
// visits. Parameters come in a fixed order, each followed by its adapter's (A, then B); a pack
// comes after its parts.
struct Visitor {
  std::function<void(Parameter&)> parameter = [](Parameter&) {};
  std::function<void(Pack&)> pack = [](Pack&) {};
};

// One layer of a model, as one rank holds it. forward() does not write to the layer; what it learns
// goes to the context by slot. Collectives inside are the only sign of other ranks.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual std::string name() const = 0;
  virtual Tensor forward(const Tensor& x, Context& context) = 0;
  void visit(const Visitor& visitor);

 private:
  // Without adapters.
  virtual void visit_parts(const Visitor& visitor) = 0;
};

using Layers = std::vector<std::unique_ptr<Layer>>;

// Consecutive layers.
struct LayerRange {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }

  friend bool operator==(const LayerRange&, const LayerRange&) = default;
};

}  // namespace pf
