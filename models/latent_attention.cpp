#include "models/latent_attention.h"

#include <cmath>

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/rows.h"
#include "models/weights.h"

namespace pf {
namespace {

Parameter make(const Mesh& mesh, const std::string& name, std::int64_t out, std::int64_t in,
               Cut cut, double std) {
  return make_parameter(mesh, {name, {out, in}, dense_weight(cut), Init::normal, std});
}

}  // namespace

LatentAttention::LatentAttention(const std::string& prefix, int layer,
                                 const LatentAttentionConfig& c, const Mesh& mesh,
                                 const Tensor* table)
    : layer_(layer),
      config_(c),
      table_(table),
      norm_(prefix + ".attention.norm", c.norm, mesh),
      kv_norm_(prefix + ".attention.kv.norm", {c.kv_rank, NormKind::rms, c.norm.eps}, mesh),
      kv_down_(
          make(mesh, prefix + ".attention.kv.down", c.kv_rank, c.hidden, Cut::whole, c.init_std)),
      k_rope_(
          make(mesh, prefix + ".attention.k.rope", c.rope_dim, c.hidden, Cut::whole, c.init_std)),
      q_nope_(make(mesh, prefix + ".attention.q.nope", c.heads * c.nope_dim,
                   c.q_rank > 0 ? c.q_rank : c.hidden, Cut::rows, c.init_std)),
      q_rope_(make(mesh, prefix + ".attention.q.rope", c.heads * c.rope_dim,
                   c.q_rank > 0 ? c.q_rank : c.hidden, Cut::rows, c.init_std)),
      k_nope_(make(mesh, prefix + ".attention.k.nope", c.heads * c.nope_dim, c.kv_rank, Cut::rows,
                   c.init_std)),
      v_(make(mesh, prefix + ".attention.v", c.heads * c.value_dim, c.kv_rank, Cut::rows,
              c.init_std)),
      out_(make(mesh, prefix + ".attention.out", c.hidden, c.heads * c.value_dim, Cut::columns,
                c.out_std)),
      kv_down_pack_(prefix + ".attention.kv.down", {&kv_down_, &k_rope_}),
      q_pack_(prefix + ".attention.q", {&q_nope_, &q_rope_}),
      kv_pack_(prefix + ".attention.kv", {&k_nope_, &v_}),
      out_pack_(prefix + ".attention.out", {&out_}) {
  if (c.q_rank == 0) return;
  Parameter& down = make_parameter(q_down_, mesh,
                                   {prefix + ".attention.q.down",
                                    {c.q_rank, c.hidden},
                                    dense_weight(Cut::whole),
                                    Init::normal,
                                    c.init_std});
  q_down_pack_.emplace(prefix + ".attention.q.down", std::vector<Parameter*>{&down});
  q_norm_.emplace(prefix + ".attention.q.norm", NormConfig{c.q_rank, NormKind::rms, c.norm.eps},
                  mesh);
}

Tensor LatentAttention::forward(const Tensor& x, Context& context) {
  const Batch& batch = context.batch;
  const PurposeScope of_part("attention");
  const Tensor h = norm_.forward(x);             // [tokens / (tp cp), hidden]
  const auto narrow = linear(h, kv_down_pack_);  // [.., kv_rank], [.., rope_dim]
  const Tensor from = enter(kv_norm_.forward(narrow[0]), context);
  const Tensor of_q = enter(q_norm_ ? q_norm_->forward(linear(h, *q_down_pack_)[0]) : h, context);
  const auto q_parts = linear(of_q, q_pack_);  // columns: heads / tp
  const auto kv = linear(from, kv_pack_);
  const std::int64_t heads = q_parts[0].columns() / config_.nope_dim;
  const Tensor k_rope = rope(enter(narrow[1], context), batch.position, *table_);
  const auto queries = [=, this, &batch] {
    return join_heads(q_parts[0], rope(q_parts[1], batch.position, *table_), heads, false);
  };
  const auto keys = [=] { return join_heads(kv[0], k_rope, heads, true); };
  const Tensor q = queries(), k = keys();
  const std::int64_t head_dim = config_.nope_dim + config_.rope_dim;
  const AttentionShape shape{heads, heads, head_dim,
                             config_.score_factor / std::sqrt(double(head_dim)), config_.value_dim};
  const Tensor y = attend(q, k, kv[1], shape, config_.window, config_.cp_method, context);
  // With other ranks' keys, attention keeps a tensor of its own.
  if (config_.rebuilds && context.mesh->size(axes::cp) == 1) {
    Tape::rebuild(q, queries);
    Tape::rebuild(k, keys);
  }
  const Tensor out = leave(linear(y, out_pack_)[0], context);
  const PurposeScope of_sum("residual");
  return add(x, residual_dropout(out, config_.dropout, layer_, 0, context));
}

void LatentAttention::visit(const Visitor& visitor) {
  norm_.visit(visitor);
  if (q_down_) visitor.parameter(*q_down_);
  if (q_norm_) q_norm_->visit(visitor);
  kv_norm_.visit(visitor);
  for (Parameter* w : {&kv_down_, &k_rope_, &q_nope_, &q_rope_, &k_nope_, &v_, &out_})
    visitor.parameter(*w);
  if (q_down_pack_) visitor.pack(*q_down_pack_);
  for (Pack* pack : {&kv_down_pack_, &q_pack_, &kv_pack_, &out_pack_}) visitor.pack(*pack);
}

}  // namespace pf
