// Products of activations with weights, and their gradients, on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/backend.h"
#include "core/cpu/processor.h"
#include "core/tensor.h"
#include "core/workers.h"

namespace pf {

// The section Products of core/backend.h, cut in tiles of rows over the workers. bf16 weights are
// read from packs. Where `isa` and this CPU have no bf16 product, operands are widened to f32: the
// same rounding, slower.
class Products {
 public:
  Products(Workers& workers, Isa isa);  // one of usable_isas()
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  std::size_t packed_bytes(const Packed& w);
  std::size_t pack_workspace(const Packed& w);
  void pack(Packed& w, const Tensor& work);
  // Rebuilds what w.forward and w.backward hold of one group from `plain` [outputs, inputs], all
  // parts stacked. Called from within a task of the workers.
  void pack_group(Packed& w, std::int64_t group, const Bf16* plain, int worker);

  std::size_t product_workspace(std::int64_t rows, const Packed& w);
  void product(const Tensor& y, const Tensor& x, const Packed& w,
               std::span<const std::int64_t> counts, const Tensor& work);
  void product_input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                              std::span<const std::int64_t> counts, const Tensor& work);
  void product_weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                               const Tensor& x, const Packed& w,
                               std::span<const std::int64_t> counts, const Tensor& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pf
