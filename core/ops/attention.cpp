#include "core/ops/attention.h"

#include <algorithm>

#include "core/error.h"

namespace pf {
namespace {

Tensor workspace(std::size_t bytes, const Tensor& like) {
  return Tensor::empty({std::int64_t(bytes)}, DType::u8, like.device());
}

double flops_of(std::span<const Area> areas, const AttentionShape& shape) {
  return 2 * double(shape.heads * (shape.head_dim + shape.values())) * pairs_of(areas);
}

}  // namespace

double pairs_of(std::span<const Area> areas) {
  using Kind = Area::Kind;
  double pairs = 0;
  for (const Area& a : areas) {
    const std::int64_t queries = a.q_end - a.q_begin, keys = a.k_end - a.k_begin;
    const bool ends_early = a.kind == Kind::causal || a.kind == Kind::both;
    const bool begins_late = a.kind == Kind::inverse_causal || a.kind == Kind::both;
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::int64_t end = ends_early ? std::min(keys, i + keys - queries + 1) : keys;
      pairs += double(std::max<std::int64_t>(0, end - (begins_late ? i : 0)));
    }
  }
  return pairs;
}

void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, std::span<const Area> areas,
                     const AttentionShape& shape) {
  require(shape.heads >= 1 && shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0,
          "attention: ", shape.heads, " heads, ", shape.kv_heads, " KV heads; the first must be a ",
          "multiple of the second");
  require(
      q.columns() == shape.heads * shape.head_dim && k.columns() == shape.kv_heads * shape.head_dim,
      "attention: q is ", q.text(), " and k ", k.text(), " for ", shape.heads, " and ",
      shape.kv_heads, " heads of ", shape.head_dim);
  require(k.rows() == v.rows() && v.columns() == shape.kv_heads * shape.values() &&
              q.dtype() == k.dtype() && k.dtype() == v.dtype(),
          "attention: q is ", q.text(), ", k ", k.text(), ", v ", v.text(), " for values of ",
          shape.values());
  for (const Area& a : areas)
    require(0 <= a.q_begin && a.q_begin <= a.q_end && a.q_end <= q.rows() && 0 <= a.k_begin &&
                a.k_begin <= a.k_end && a.k_end <= k.rows(),
            "attention: an area of queries [", a.q_begin, ", ", a.q_end, ") and keys [", a.k_begin,
            ", ", a.k_end, ") of ", q.rows(), " and ", k.rows());
}

void attention_into(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                    const Tensor& v, std::span<const Area> areas, const AttentionShape& shape) {
  q.device().count_flops(flops_of(areas, shape));
  backend(q).attention(y, lse, q, k, v, areas, shape,
                       workspace(backend(q).attention_workspace(q, k, areas, shape), q));
}

void attention_backward_into(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                             const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                             const Tensor& v, std::span<const Area> areas,
                             const AttentionShape& shape) {
  q.device().count_flops(2 * flops_of(areas, shape));
  backend(q).attention_backward(
      dq, dk, dv, dy, y, lse, q, k, v, areas, shape,
      workspace(backend(q).attention_backward_workspace(q, k, areas, shape), q));
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, std::vector<Area> areas,
                 const AttentionShape& shape) {
  check_attention(q, k, v, areas, shape);
  require(k.label() == v.label(), "attention: k is ", text(k.label()), ", v ", text(v.label()));
  const Tensor y = Tensor::empty({q.rows(), shape.heads * shape.values()}, q.dtype(), q.device(),
                                 attention(q.label(), k.label()));
  const Tensor lse = Tensor::empty({q.rows(), shape.heads}, accumulation(q.dtype()), q.device(),
                                   constant(q.label()));
  attention_into(y, lse, q, k, v, areas, shape);
  return Tape::record(y, {q, k, v}, false,
                      [q, k, v, y, lse, areas = std::move(areas), shape](const Tensor& dy) {
                        const Tensor dq = Tensor::gradient_like(q), dk = Tensor::gradient_like(k),
                                     dv = Tensor::gradient_like(v);
                        attention_backward_into(dq, dk, dv, dy, y, lse, q, k, v, areas, shape);
                        return std::vector<Tensor>{dq, dk, dv};
                      });
}

std::vector<Area> causal_areas(std::int64_t sequences, std::int64_t length) {
  std::vector<Area> areas;
  for (std::int64_t s = 0; s < sequences; ++s)
    areas.push_back(
        {s * length, (s + 1) * length, s * length, (s + 1) * length, Area::Kind::causal});
  return areas;
}

std::vector<Area> within_window(std::span<const Area> areas, std::int64_t window) {
  require(window > 0, "attention: a window of ", window, " keys");
  std::vector<Area> out;
  for (const Area& a : areas) {
    require(a.kind == Area::Kind::causal, "attention: a window over an area that is not causal");
    // Row i sees keys up to i + shift; from row `full` on the window leaves some out.
    const std::int64_t shift = a.k_end - a.q_end;
    const std::int64_t full = std::clamp(a.k_begin - shift + window, a.q_begin, a.q_end);
    if (full > a.q_begin)
      out.push_back({a.q_begin, full, a.k_begin, full + shift, Area::Kind::causal});
    if (full < a.q_end)
      out.push_back({full, a.q_end, full + shift - window + 1, a.k_end, Area::Kind::both});
  }
  return out;
}

}  // namespace pf
