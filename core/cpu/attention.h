// Attention over areas on the CPU, by blocks of scores (Dao et al. 2022).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/backend.h"
#include "core/cpu/processor.h"
#include "core/tensor.h"
#include "core/workers.h"

namespace pf {

// The section Attention of core/backend.h. Where `isa` and this CPU have no bf16 product, operands
// are widened to f32: the same rounding, slower.
class AttentionKernels {
 public:
  AttentionKernels(Workers& workers, Isa isa);  // one of usable_isas()
  ~AttentionKernels();
  AttentionKernels(const AttentionKernels&) = delete;
  AttentionKernels& operator=(const AttentionKernels&) = delete;

  std::size_t attention_workspace(const Tensor& q, const Tensor& k, std::span<const Area> areas,
                                  const AttentionShape& shape);
  void attention(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                 const Tensor& v, std::span<const Area> areas, const AttentionShape& shape,
                 const Tensor& work);
  std::size_t attention_backward_workspace(const Tensor& q, const Tensor& k,
                                           std::span<const Area> areas,
                                           const AttentionShape& shape);
  void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                          const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                          const Tensor& v, std::span<const Area> areas, const AttentionShape& shape,
                          const Tensor& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pf
