#include "models/attention.h"

#include <cmath>

#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/rows.h"
#include "models/weights.h"
#include "parallel/table.h"

namespace pf {
namespace {

// The share ranks of one kv coordinate hold the same KV heads and use them for different query
// heads.
Label kv_weight() {
  return dense_weight(Cut::rows).with({Axis::share}, Spread::replicated);
}

}  // namespace

Attention::Attention(const std::string& prefix, int layer, const AttentionConfig& c,
                     const Mesh& mesh, const Tensor* table)
    : layer_(layer),
      config_(c),
      table_(table),
      norm_(make_parameter(
          mesh, {prefix + ".attention.norm", {c.hidden}, dense_weight(Cut::whole), Init::ones})),
      q_(make_parameter(mesh, {prefix + ".attention.q",
                               {c.heads * c.head_dim, c.hidden},
                               dense_weight(Cut::rows),
                               Init::normal,
                               c.init_std})),
      k_(make_parameter(mesh, {prefix + ".attention.k",
                               {c.kv_heads * c.head_dim, c.hidden},
                               kv_weight(),
                               Init::normal,
                               c.init_std})),
      v_(make_parameter(mesh, {prefix + ".attention.v",
                               {c.kv_heads * c.head_dim, c.hidden},
                               kv_weight(),
                               Init::normal,
                               c.init_std})),
      out_(make_parameter(mesh, {prefix + ".attention.out",
                                 {c.hidden, c.heads * c.head_dim},
                                 dense_weight(Cut::columns),
                                 Init::normal,
                                 c.out_std})),
      qkv_(prefix + ".attention.qkv", {&q_, &k_, &v_}),
      out_pack_(prefix + ".attention.out", {&out_}) {}

Tensor Attention::forward(const Tensor& x, Context& context) {
  const Batch& batch = context.batch;
  const Tensor h = enter(rms_norm(x, norm_, config_.norm_eps), context);
  const auto qkv = linear(h, qkv_);                        // columns: heads / tp
  const Tensor q = rope(qkv[0], batch.position, *table_);  // [tokens / cp, heads / tp * head_dim]
  Tensor k = rope(qkv[1], batch.position, *table_);
  k = all_gather(k, *context.mesh, axes::cp);
  const Tensor v = all_gather(qkv[2], *context.mesh, axes::cp);
  const AttentionShape shape{q.columns() / config_.head_dim, k.columns() / config_.head_dim,
                             config_.head_dim, 1 / std::sqrt(double(config_.head_dim))};
  const Tensor y = linear(attention(q, k, v, batch.areas, shape), out_pack_)[0];
  return add(x, residual_dropout(leave(y, context), config_.dropout, layer_, 0, context));
}

void Attention::visit(const Visitor& visitor) {
  for (Parameter* w : {&norm_, &q_, &k_, &v_, &out_}) visitor.parameter(*w);
  for (Pack* pack : {&qkv_, &out_pack_}) visitor.pack(*pack);
}

}  // namespace pf
