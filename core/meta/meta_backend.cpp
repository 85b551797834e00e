// Shapes and bytes: the interpreter behind checks and plans.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/tensor.h"

namespace pf {
namespace {

// Computes nothing; sizes are those of `target`.
class MetaBackend final : public Backend {
 public:
  MetaBackend(std::unique_ptr<Backend> target, RecordedCounts recorded)
      : target_(std::move(target)), recorded_(std::move(recorded)) {}

  DeviceKind kind() const override { return DeviceKind::meta; }
  std::string description() const override { return "meta of " + target_->description(); }
  std::size_t range_bytes() const override { return 0; }
  void* reserve(std::size_t) override { return nullptr; }
  bool commit(void*, std::size_t, std::size_t) override { return false; }
  void release(void*, std::size_t) override {}
  void fill(const Tensor&, double) override {}
  void copy(const Tensor&, const Tensor&) override {}
  void add(const Tensor&, std::span<const Tensor>) override {}
  void scale(const Tensor&, const Tensor&, double) override {}
  void swiglu(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&, const Tensor&, const Tensor&) override {}
  void activation(const Tensor&, const Tensor&, ActivationKind) override {}
  void activation_backward(const Tensor&, const Tensor&, const Tensor&, ActivationKind) override {}
  void add_row(const Tensor&, const Tensor&, const Tensor&) override {}
  void add_row_backward(const GradientTarget&, const Tensor&) override {}
  void dropout(const Tensor&, const Tensor&, double, const Random&, const Tensor&, std::int64_t,
               std::int64_t) override {}
  void normal(const Tensor&, const Random&, double, const Shape&,
              std::span<const std::int64_t>) override {}
  std::size_t packed_bytes(const Packed& w) override { return target_->packed_bytes(w); }
  std::size_t pack_workspace(const Packed& w) override { return target_->pack_workspace(w); }
  void pack(Packed&, const Tensor&) override {}
  std::size_t product_workspace(std::int64_t rows, const Packed& w) override {
    return target_->product_workspace(rows, w);
  }
  void product(const Tensor&, const Tensor&, const Packed&, std::span<const std::int64_t>,
               const Tensor&) override {}
  void product_input_gradient(const Tensor&, const Tensor&, const Packed&,
                              std::span<const std::int64_t>, const Tensor&) override {}
  void product_weight_gradient(std::span<const GradientTarget>, const Tensor&, const Tensor&,
                               const Packed&, std::span<const std::int64_t>,
                               const Tensor&) override {}
  void embedding(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {}
  void embedding_backward(const GradientTarget&, const Tensor&, const Tensor&,
                          std::int64_t) override {}
  void rms_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double) override {}
  std::size_t rms_norm_workspace(const Tensor& x, const Tensor& w) override {
    return target_->rms_norm_workspace(x, w);
  }
  void rms_norm_backward(const GradientTarget&, const GradientTarget&, const Tensor&, const Tensor&,
                         const Tensor&, const Tensor&, const Tensor&) override {}
  void layer_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                  double) override {}
  std::size_t layer_norm_workspace(const Tensor& x, const Tensor& w) override {
    return target_->layer_norm_workspace(x, w);
  }
  void layer_norm_backward(const GradientTarget&, const GradientTarget&, const GradientTarget&,
                           const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&) override {}
  void join_heads(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {}
  void join_heads_backward(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {}
  void rope(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) override {}
  void take_rows(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {}
  void sum_rows(const GradientTarget&, const Tensor&, const Tensor&, std::int64_t) override {}
  std::size_t attention_workspace(const Tensor& q, const Tensor& k, std::span<const Area> areas,
                                  const AttentionShape& shape) override {
    return target_->attention_workspace(q, k, areas, shape);
  }
  void attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                 std::span<const Area>, const AttentionShape&, const Tensor&) override {}
  std::size_t attention_backward_workspace(const Tensor& q, const Tensor& k,
                                           std::span<const Area> areas,
                                           const AttentionShape& shape) override {
    return target_->attention_backward_workspace(q, k, areas, shape);
  }
  void attention_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          std::span<const Area>, const AttentionShape&, const Tensor&) override {}
  void merge_attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void route(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
             const Router&) override {}
  void route_again(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                   const Router&) override {}
  void route_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      const Tensor&, const Tensor&, const Tensor&, const Router&) override {}
  void forced_choice(const Tensor&, const Tensor&, std::int64_t) override {}
  void drop_choices(const Tensor&, const Tensor&, const Tensor&, std::int64_t, std::int64_t,
                    std::int64_t) override {}
  void choices_of(const Tensor&, const Tensor&, std::int64_t, std::int64_t) override {}
  void plan(const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {}
  void count_choices(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void sum_of_chosen(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void row_max(const Tensor&, const Tensor&) override {}
  void loss_parts(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                  std::int64_t) override {}
  void loss_parts_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, std::int64_t) override {}
  void cross_entropy(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                     double) override {}
  void cross_entropy_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, double) override {}
  void segment_sum(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void segment_sum_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void dot(const Tensor&, const Tensor&, const Tensor&, double) override {}
  void dot_backward(const Tensor&, const Tensor&, const Tensor&, double) override {}
  void normalise_rows(const Tensor&, const Tensor&) override {}
  void square_sum(const Tensor&, const Tensor&, const Tensor&, double) override {}
  void square_sum_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           double) override {}
  void reduce(const Tensor&, std::span<const Tensor>, const Tensor&) override {}
  std::size_t adamw_workspace(std::span<const AdamWTensor> tensors, const Packed* packed) override {
    return target_->adamw_workspace(tensors, packed);
  }
  void adamw(std::span<const AdamWTensor>, const AdamWStep&, Packed*, const Tensor&) override {}
  std::vector<std::int64_t> read_counts(const Tensor& counts, std::int64_t total) override {
    if (recorded_) return recorded_(counts.size());
    const std::int64_t columns = counts.columns();
    std::vector<std::int64_t> shares;
    for (std::int64_t i = 0; i < counts.size(); ++i)
      shares.push_back(total / columns + (i % columns < total % columns));
    return shares;
  }

 private:
  std::unique_ptr<Backend> target_;
  RecordedCounts recorded_;
};

}  // namespace

std::unique_ptr<Backend> make_meta_backend(std::unique_ptr<Backend> target,
                                           RecordedCounts recorded) {
  return std::make_unique<MetaBackend>(std::move(target), std::move(recorded));
}

}  // namespace pf
