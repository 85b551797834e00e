#include "models/attention.h"

#include <cmath>

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/rows.h"
#include "models/weights.h"

namespace pf {
namespace {

// The share ranks of one kv coordinate hold the same KV heads and use them for different query
// heads.
Label kv_weight() {
  return dense_weight(Cut::rows).with({Axis::share}, Spread::replicated);
}

Parameter make_kv(const Mesh& mesh, const std::string& name, const AttentionConfig& c) {
  return make_parameter(
      mesh, {name, {c.kv_heads * c.head_dim, c.hidden}, kv_weight(), Init::normal, c.init_std});
}

}  // namespace

Attention::Attention(const std::string& prefix, int layer, const AttentionConfig& c,
                     const Mesh& mesh, const Tensor* table)
    : layer_(layer),
      config_(c),
      table_(table),
      norm_(prefix + ".attention.norm", c.norm, mesh),
      q_(make_parameter(mesh, {prefix + ".attention.q",
                               {c.heads * c.head_dim, c.hidden},
                               dense_weight(Cut::rows),
                               Init::normal,
                               c.init_std})),
      k_(make_kv(mesh, prefix + ".attention.k", c)),
      v_(make_kv(mesh, prefix + ".attention.v", c)),
      out_(make_parameter(mesh, {prefix + ".attention.out",
                                 {c.hidden, c.heads * c.head_dim},
                                 dense_weight(Cut::columns),
                                 Init::normal,
                                 c.out_std})),
      qkv_(prefix + ".attention.qkv", {&q_, &k_, &v_}),
      out_pack_(prefix + ".attention.out", {&out_}) {
  const std::string name = prefix + ".attention.";
  if (c.has_qkv_bias) {
    make_bias(q_bias_, mesh, name + "q.bias", c.heads * c.head_dim, dense_weight(Cut::rows));
    make_bias(k_bias_, mesh, name + "k.bias", c.kv_heads * c.head_dim, kv_weight());
    make_bias(v_bias_, mesh, name + "v.bias", c.kv_heads * c.head_dim, kv_weight());
  }
  if (c.has_out_bias)
    make_bias(out_bias_, mesh, name + "out.bias", c.hidden, dense_weight(Cut::whole));
  if (c.has_qk_norm) {
    q_norm_.emplace(name + "q.norm", NormConfig{c.head_dim, NormKind::rms_by_head, c.norm.eps},
                    mesh);
    k_norm_.emplace(name + "k.norm", NormConfig{c.head_dim, NormKind::rms_by_head, c.norm.eps},
                    mesh);
  }
}

// Queries or keys with their norm and positions.
Tensor Attention::placed(const Tensor& x, std::optional<Norm>& norm, const Batch& batch) const {
  const Tensor y = norm ? norm->forward(x) : x;
  return table_ != nullptr ? rope_in_place(y, batch.position, *table_) : y;
}

// What attention keeps is then the queries and keys of this rank, and their products lie in memory
// anyway: values are columns of them. Without a norm they are those columns themselves.
bool Attention::rebuilds_heads(const Context& context) const {
  return config_.rebuilds && q_norm_ && !v_bias_ && context.mesh->size(axes::cp) == 1;
}

Tensor Attention::forward(const Tensor& x, Context& context) {
  const PurposeScope of_part("attention");
  const Batch& batch = context.batch;
  const auto normed = [=, this] { return norm_.forward(x); };
  const Tensor own = normed(), h = enter(own, context);
  const auto qkv = linear(h, qkv_);  // columns: heads / tp
  const auto queries = [=, this, &batch] {
    return placed(biased(qkv[0], q_bias_), q_norm_, batch);
  };
  const auto keys = [=, this, &batch] { return placed(biased(qkv[1], k_bias_), k_norm_, batch); };
  const Tensor q = queries(), k = keys(), v = biased(qkv[2], v_bias_);
  const AttentionShape shape{q.columns() / config_.head_dim, k.columns() / config_.head_dim,
                             config_.head_dim,
                             config_.score_factor / std::sqrt(double(config_.head_dim))};
  const Tensor y = attend(q, k, v, shape, config_.window, config_.cp_method, context);
  if (rebuilds_heads(context)) {
    Tape::rebuild(q, queries);
    Tape::rebuild(k, keys);
  }
  if (config_.rebuilds && keeps_own(context)) Tape::rebuild(own, normed);
  const Tensor out = leave(linear(y, out_pack_)[0], context);
  const PurposeScope of_sum("residual");
  return add(x, residual_dropout(biased(out, out_bias_), config_.dropout, layer_, 0, context));
}

void Attention::visit(const Visitor& visitor) {
  norm_.visit(visitor);
  for (Parameter* w : {&q_, &k_, &v_, &out_}) visitor.parameter(*w);
  for (auto* bias : {&q_bias_, &k_bias_, &v_bias_, &out_bias_})
    if (*bias) visitor.parameter(**bias);
  for (auto* norm : {&q_norm_, &k_norm_})
    if (*norm) (*norm)->visit(visitor);
  for (Pack* pack : {&qkv_, &out_pack_}) visitor.pack(*pack);
}

}  // namespace pf
