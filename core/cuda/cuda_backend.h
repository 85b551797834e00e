// A CUDA device: memory, copies and what it is. Kernels that it does not have throw Error.
#pragma once

#include <string>

#include "core/backend.h"

namespace pf {

class CudaBackend : public Backend {
 public:
  // Throws Error if there is no device of that number.
  explicit CudaBackend(int device);

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string description() const override;  // "NVIDIA H100 80GB, 79.1 GiB, compute 9.0"
  std::size_t range_bytes() const override { return std::size_t{256} << 20; }
  void* reserve(std::size_t bytes) override;  // with its memory
  bool commit(void*, std::size_t, std::size_t) override { return true; }
  void release(void* range, std::size_t bytes) override;
  // Only 0, in whole bytes.
  void fill(const Tensor& y, double value) override;
  // Between the host and the device too; no casts.
  void copy(const Tensor& y, const Tensor& x) override;

  void add(const Tensor&, std::span<const Tensor>) override { absent("add"); }
  void scale(const Tensor&, const Tensor&, double) override { absent("scale"); }
  void swiglu(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    absent("swiglu");
  }
  void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&, const Tensor&, const Tensor&) override {
    absent("swiglu_backward");
  }
  void activation(const Tensor&, const Tensor&, ActivationKind) override { absent("activation"); }
  void activation_backward(const Tensor&, const Tensor&, const Tensor&, ActivationKind) override {
    absent("activation_backward");
  }
  void add_row(const Tensor&, const Tensor&, const Tensor&) override { absent("add_row"); }
  void add_row_backward(const GradientTarget&, const Tensor&) override {
    absent("add_row_backward");
  }
  void dropout(const Tensor&, const Tensor&, double, const Random&, const Tensor&, std::int64_t,
               std::int64_t) override {
    absent("dropout");
  }
  void normal(const Tensor&, const Random&, double, const Shape&,
              std::span<const std::int64_t>) override {
    absent("normal");
  }
  std::size_t packed_bytes(const Packed&) override { absent("packed_bytes"); }
  std::size_t pack_workspace(const Packed&) override { absent("pack_workspace"); }
  void pack(Packed&, const Tensor&) override { absent("pack"); }
  std::size_t product_workspace(std::int64_t, const Packed&) override {
    absent("product_workspace");
  }
  void product(const Tensor&, const Tensor&, const Packed&, std::span<const std::int64_t>,
               const Tensor&) override {
    absent("product");
  }
  void product_input_gradient(const Tensor&, const Tensor&, const Packed&,
                              std::span<const std::int64_t>, const Tensor&) override {
    absent("product_input_gradient");
  }
  void product_weight_gradient(std::span<const GradientTarget>, const Tensor&, const Tensor&,
                               const Packed&, std::span<const std::int64_t>,
                               const Tensor&) override {
    absent("product_weight_gradient");
  }
  void embedding(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {
    absent("embedding");
  }
  void embedding_backward(const GradientTarget&, const Tensor&, const Tensor&,
                          std::int64_t) override {
    absent("embedding_backward");
  }
  void rms_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double) override {
    absent("rms_norm");
  }
  std::size_t rms_norm_workspace(const Tensor&, const Tensor&) override {
    absent("rms_norm_workspace");
  }
  void rms_norm_backward(const GradientTarget&, const GradientTarget&, const Tensor&, const Tensor&,
                         const Tensor&, const Tensor&, const Tensor&) override {
    absent("rms_norm_backward");
  }
  void layer_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                  double) override {
    absent("layer_norm");
  }
  std::size_t layer_norm_workspace(const Tensor&, const Tensor&) override {
    absent("layer_norm_workspace");
  }
  void layer_norm_backward(const GradientTarget&, const GradientTarget&, const GradientTarget&,
                           const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&) override {
    absent("layer_norm_backward");
  }
  void join_heads(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {
    absent("join_heads");
  }
  void join_heads_backward(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {
    absent("join_heads_backward");
  }
  void rope(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) override {
    absent("rope");
  }
  void take_rows(const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {
    absent("take_rows");
  }
  void sum_rows(const GradientTarget&, const Tensor&, const Tensor&, std::int64_t) override {
    absent("sum_rows");
  }
  std::size_t attention_workspace(const Tensor&, const Tensor&, std::span<const Area>,
                                  const AttentionShape&) override {
    absent("attention_workspace");
  }
  void attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                 std::span<const Area>, const AttentionShape&, const Tensor&) override {
    absent("attention");
  }
  std::size_t attention_backward_workspace(const Tensor&, const Tensor&, std::span<const Area>,
                                           const AttentionShape&) override {
    absent("attention_backward_workspace");
  }
  void attention_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          std::span<const Area>, const AttentionShape&, const Tensor&) override {
    absent("attention_backward");
  }
  void merge_attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    absent("merge_attention");
  }
  void route(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
             const Router&) override {
    absent("route");
  }
  void route_again(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                   const Router&) override {
    absent("route_again");
  }
  void route_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      const Tensor&, const Tensor&, const Tensor&, const Router&) override {
    absent("route_backward");
  }
  void forced_choice(const Tensor&, const Tensor&, std::int64_t) override {
    absent("forced_choice");
  }
  void drop_choices(const Tensor&, const Tensor&, const Tensor&, std::int64_t, std::int64_t,
                    std::int64_t) override {
    absent("drop_choices");
  }
  void choices_of(const Tensor&, const Tensor&, std::int64_t, std::int64_t) override {
    absent("choices_of");
  }
  void plan(const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) override {
    absent("plan");
  }
  void count_choices(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    absent("count_choices");
  }
  void sum_of_chosen(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    absent("sum_of_chosen");
  }
  void row_max(const Tensor&, const Tensor&) override { absent("row_max"); }
  void loss_parts(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                  std::int64_t) override {
    absent("loss_parts");
  }
  void loss_parts_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, std::int64_t) override {
    absent("loss_parts_backward");
  }
  void cross_entropy(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                     double) override {
    absent("cross_entropy");
  }
  void cross_entropy_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, double) override {
    absent("cross_entropy_backward");
  }
  void segment_sum(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    absent("segment_sum");
  }
  void segment_sum_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {
    absent("segment_sum_backward");
  }
  void dot(const Tensor&, const Tensor&, const Tensor&, double) override { absent("dot"); }
  void dot_backward(const Tensor&, const Tensor&, const Tensor&, double) override {
    absent("dot_backward");
  }
  void normalise_rows(const Tensor&, const Tensor&) override { absent("normalise_rows"); }
  void square_sum(const Tensor&, const Tensor&, const Tensor&, double) override {
    absent("square_sum");
  }
  void square_sum_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           double) override {
    absent("square_sum_backward");
  }
  void reduce(const Tensor&, std::span<const Tensor>, const Tensor&) override { absent("reduce"); }
  std::size_t adamw_workspace(std::span<const AdamWTensor>, const Packed*) override {
    absent("adamw_workspace");
  }
  void adamw(std::span<const AdamWTensor>, const AdamWStep&, Packed*, const Tensor&) override {
    absent("adamw");
  }
  std::vector<std::int64_t> read_counts(const Tensor&, std::int64_t) override {
    absent("read_counts");
  }

 private:
  [[noreturn]] static void absent(const char* kernel);

  int device_;
};

}  // namespace pf
