#include "core/cpu/attention.h"

#include <cstddef>

#include "core/cpu/attention_job.h"

namespace pf {
namespace {

std::byte* bytes_of(const Tensor& work) {
  return work ? static_cast<std::byte*>(work.raw()) : nullptr;
}

}  // namespace

struct AttentionKernels::State {
  Workers& workers;
  Isa isa = Isa::base;
  Gemm<double> doubles{isa};
  Gemm<float> singles{isa};
  Bf16Gemm halves{isa};

  // f(job) with the job of the element type.
  template <class F>
  auto with(DType type, std::span<const Area> areas, const AttentionShape& shape, F f) {
    if (type == DType::f64)
      return f(cpu_attention::Job<double>(workers, doubles, isa, areas, shape));
    if (type == DType::f32)
      return f(cpu_attention::Job<float>(workers, singles, isa, areas, shape));
    return f(cpu_attention::Job<Bf16>(workers, halves, isa, areas, shape));
  }
};

AttentionKernels::AttentionKernels(Workers& workers, Isa isa) : state_(new State{workers, isa}) {}

AttentionKernels::~AttentionKernels() = default;

std::size_t AttentionKernels::attention_workspace(const Tensor& q, const Tensor& /*k*/,
                                                  std::span<const Area> areas,
                                                  const AttentionShape& shape) {
  return state_->with(q.dtype(), areas, shape, [](auto&& job) { return job.forward_bytes(); });
}

void AttentionKernels::attention(const Tensor& y, const Tensor& lse, const Tensor& q,
                                 const Tensor& k, const Tensor& v, std::span<const Area> areas,
                                 const AttentionShape& shape, const Tensor& work) {
  state_->with(q.dtype(), areas, shape,
               [&](auto&& job) { job.forward(y, lse, q, k, v, bytes_of(work)); });
}

std::size_t AttentionKernels::attention_backward_workspace(const Tensor& q, const Tensor& k,
                                                           std::span<const Area> areas,
                                                           const AttentionShape& shape) {
  return state_->with(q.dtype(), areas, shape,
                      [&](auto&& job) { return job.backward_bytes(k.rows()); });
}

void AttentionKernels::attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                          const Tensor& dy, const Tensor& y, const Tensor& lse,
                                          const Tensor& q, const Tensor& k, const Tensor& v,
                                          std::span<const Area> areas, const AttentionShape& shape,
                                          const Tensor& work) {
  state_->with(q.dtype(), areas, shape, [&](auto&& job) {
    job.backward(dq, dk, dv, {dy, y, lse, q, k, v}, bytes_of(work));
  });
}

}  // namespace pf
