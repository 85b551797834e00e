// The backend of this machine's processors.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/cpu/attention.h"
#include "core/cpu/kernels.h"
#include "core/cpu/processor.h"
#include "core/cpu/products.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "core/workers.h"

namespace pf {

inline std::byte* row_of(const Tensor& x, std::int64_t row) {
  return static_cast<std::byte*>(x.raw()) + std::size_t(row * x.pitch()) * size_of(x.dtype());
}

// Shares each kernel's rows, columns or elements out to its workers. The same for any number of
// them, but for the weight gradients of rms_norm_backward and what Products and AttentionKernels
// say.
class CpuBackend : public Backend {
 public:
  // `isa` must be one of usable_isas().
  explicit CpuBackend(int workers, int first_processor = -1, Isa isa = usable_isas().back());
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string description() const override;
  std::size_t range_bytes() const override;
  void* reserve(std::size_t bytes) override;
  bool commit(void* range, std::size_t begin, std::size_t end) override;
  void release(void* range, std::size_t bytes) override;
  void fill(const Tensor& y, double value) override;
  void copy(const Tensor& y, const Tensor& x) override;
  void add(const Tensor& y, std::span<const Tensor> xs) override;
  void scale(const Tensor& y, const Tensor& x, double factor) override;
  void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, const Tensor& row) override;
  void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& drow, const Tensor& y,
                       const Tensor& dy, const Tensor& gate, const Tensor& up,
                       const Tensor& row) override;
  void activation(const Tensor& y, const Tensor& x, ActivationKind kind) override;
  void activation_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                           ActivationKind kind) override;
  void add_row(const Tensor& y, const Tensor& x, const Tensor& row) override;
  void add_row_backward(const GradientTarget& drow, const Tensor& dy) override;
  void dropout(const Tensor& y, const Tensor& x, double p, const Random& random,
               const Tensor& token, std::int64_t width, std::int64_t first_column) override;
  void normal(const Tensor& y, const Random& random, double std, const Shape& whole,
              std::span<const std::int64_t> begin) override;
  std::size_t packed_bytes(const Packed& w) override;
  std::size_t pack_workspace(const Packed& w) override;
  void pack(Packed& w, const Tensor& work) override;
  std::size_t product_workspace(std::int64_t rows, const Packed& w) override;
  void product(const Tensor& y, const Tensor& x, const Packed& w,
               std::span<const std::int64_t> counts, const Tensor& work) override;
  void product_input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                              std::span<const std::int64_t> counts, const Tensor& work) override;
  void product_weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                               const Tensor& x, const Packed& w,
                               std::span<const std::int64_t> counts, const Tensor& work) override;
  void embedding(const Tensor& y, const Tensor& ids, const Tensor& w, std::int64_t first) override;
  void embedding_backward(const GradientTarget& dw, const Tensor& ids, const Tensor& dy,
                          std::int64_t first) override;
  void rms_norm(const Tensor& y, const Tensor& scale, const Tensor& x, const Tensor& w,
                double eps) override;
  std::size_t rms_norm_workspace(const Tensor& x, const Tensor& w) override;
  void rms_norm_backward(const GradientTarget& dx, const GradientTarget& dw, const Tensor& dy,
                         const Tensor& x, const Tensor& scale, const Tensor& w,
                         const Tensor& work) override;
  void layer_norm(const Tensor& y, const Tensor& statistics, const Tensor& x, const Tensor& w,
                  const Tensor& b, double eps) override;
  std::size_t layer_norm_workspace(const Tensor& x, const Tensor& w) override;
  void layer_norm_backward(const GradientTarget& dx, const GradientTarget& dw,
                           const GradientTarget& db, const Tensor& dy, const Tensor& x,
                           const Tensor& statistics, const Tensor& w, const Tensor& work) override;
  void join_heads(const Tensor& y, const Tensor& a, const Tensor& b, std::int64_t heads) override;
  void join_heads_backward(const Tensor& da, const Tensor& db, const Tensor& dy,
                           std::int64_t heads) override;
  void rope(const Tensor& y, const Tensor& x, const Tensor& position, const Tensor& table,
            bool inverse) override;
  void take_rows(const Tensor& y, const Tensor& x, const Tensor& order, std::int64_t per) override;
  void sum_rows(const GradientTarget& y, const Tensor& x, const Tensor& place,
                std::int64_t per) override;
  std::size_t attention_workspace(const Tensor& q, const Tensor& k, std::span<const Area> areas,
                                  const AttentionShape& shape) override;
  void attention(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                 const Tensor& v, std::span<const Area> areas, const AttentionShape& shape,
                 const Tensor& work) override;
  std::size_t attention_backward_workspace(const Tensor& q, const Tensor& k,
                                           std::span<const Area> areas,
                                           const AttentionShape& shape) override;
  void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                          const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                          const Tensor& v, std::span<const Area> areas, const AttentionShape& shape,
                          const Tensor& work) override;
  void merge_attention(const Tensor& y, const Tensor& lse, const Tensor& part_y,
                       const Tensor& part_lse) override;
  void route(const Tensor& scores, const Tensor& weights, const Tensor& lse, const Tensor& chosen,
             const Tensor& logits, const Router& router) override;
  void route_again(const Tensor& scores, const Tensor& weights, const Tensor& lse,
                   const Tensor& chosen, const Tensor& logits, const Router& router) override;
  void route_backward(const Tensor& dlogits, const Tensor& dscores, const Tensor& dweights,
                      const Tensor& dlse, const Tensor& scores, const Tensor& weights,
                      const Tensor& chosen, const Tensor& logits, const Router& router) override;
  void forced_choice(const Tensor& chosen, const Tensor& token, std::int64_t experts) override;
  void drop_choices(const Tensor& kept, const Tensor& chosen, const Tensor& weights,
                    std::int64_t block, std::int64_t capacity, std::int64_t experts) override;
  void choices_of(const Tensor& part, const Tensor& chosen, std::int64_t first,
                  std::int64_t count) override;
  void plan(const Tensor& order, const Tensor& place, const Tensor& counts, const Tensor& chosen,
            std::int64_t padded) override;
  void count_choices(const Tensor& counts, const Tensor& chosen, const Tensor& mask,
                     const Tensor& segment) override;
  void sum_of_chosen(const Tensor& sums, const Tensor& scores, const Tensor& chosen,
                     const Tensor& mask) override;
  void row_max(const Tensor& top, const Tensor& logits) override;
  void loss_parts(const Tensor& exp_sum, const Tensor& picked, const Tensor& logits,
                  const Tensor& top, const Tensor& target, std::int64_t first) override;
  void loss_parts_backward(const Tensor& dlogits, const Tensor& dexp_sum, const Tensor& dpicked,
                           const Tensor& logits, const Tensor& top, const Tensor& target,
                           std::int64_t first) override;
  void cross_entropy(const Tensor& loss, const Tensor& exp_sum, const Tensor& picked,
                     const Tensor& top, const Tensor& mask, double factor) override;
  void cross_entropy_backward(const Tensor& dexp_sum, const Tensor& dpicked, const Tensor& dloss,
                              const Tensor& exp_sum, const Tensor& mask, double factor) override;
  void segment_sum(const Tensor& y, const Tensor& x, const Tensor& mask,
                   const Tensor& segment) override;
  void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& mask,
                            const Tensor& segment) override;
  void dot(const Tensor& y, const Tensor& a, const Tensor& b, double factor) override;
  void dot_backward(const Tensor& da, const Tensor& dy, const Tensor& b, double factor) override;
  void normalise_rows(const Tensor& y, const Tensor& x) override;
  void square_sum(const Tensor& y, const Tensor& x, const Tensor& mask, double factor) override;
  void square_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& mask,
                           double factor) override;
  void reduce(const Tensor& y, std::span<const Tensor> xs, const Tensor& squares) override;
  std::size_t adamw_workspace(std::span<const AdamWTensor> tensors, const Packed* packed) override;
  void adamw(std::span<const AdamWTensor> tensors, const AdamWStep& step, Packed* packed,
             const Tensor& work) override;
  std::vector<std::int64_t> read_counts(const Tensor& counts, std::int64_t total) override;

 private:
  using Part = std::function<void(std::int64_t begin, std::int64_t end, int worker)>;

  const Kernels& of(const Tensor& x) const { return kernels(isa_, x.dtype()); }
  // Splits [0, size), each of which is as much work as `cost` elements, unless all of it is less
  // than waking the workers.
  void share(std::int64_t size, std::int64_t grain, std::int64_t cost, const Part& part);
  void over_elements(const Tensor& y, const Part& part);
  void over_rows(std::int64_t rows, std::int64_t columns, const Part& part);
  // The sum of part(begin, end) over pieces of [0, size) that do not depend on the workers.
  double add_up(std::int64_t size, std::int64_t columns,
                const std::function<double(std::int64_t begin, std::int64_t end)>& part);

  bool packs_by_group(const Packed& packed) const;
  void adamw_by_group(std::span<const AdamWTensor> tensors, const AdamWStep& step, Packed& packed,
                      const Tensor& work);

  Isa isa_;
  Workers workers_;
  Products products_;
  AttentionKernels attention_;
};

}  // namespace pf
