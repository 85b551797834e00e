#include "models/mlp.h"

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/rows.h"
#include "models/weights.h"

namespace pf {

SwiGlu::SwiGlu(const std::string& prefix, const MlpConfig& c, const Mesh& mesh)
    : gate_(make_parameter(mesh, {prefix + ".gate",
                                  {c.ffn, c.hidden},
                                  dense_weight(Cut::rows),
                                  Init::normal,
                                  c.init_std})),
      up_(make_parameter(
          mesh,
          {prefix + ".up", {c.ffn, c.hidden}, dense_weight(Cut::rows), Init::normal, c.init_std})),
      down_(make_parameter(mesh, {prefix + ".down",
                                  {c.hidden, c.ffn},
                                  dense_weight(Cut::columns),
                                  Init::normal,
                                  c.out_std})),
      gate_up_(prefix + ".gate_up", {&gate_, &up_}),
      down_pack_(prefix + ".down", {&down_}) {}

Tensor SwiGlu::forward(const Tensor& x, Context& context) {
  const auto gate_up = linear(enter(x, context), gate_up_);  // columns: ffn / tp
  return leave(linear(swiglu(gate_up[0], gate_up[1]), down_pack_)[0], context);
}

void SwiGlu::visit(const Visitor& visitor) {
  for (Parameter* w : {&gate_, &up_, &down_}) visitor.parameter(*w);
  for (Pack* pack : {&gate_up_, &down_pack_}) visitor.pack(*pack);
}

Mlp::Mlp(const std::string& prefix, int layer, const MlpConfig& config, const Mesh& mesh)
    : layer_(layer),
      config_(config),
      norm_(make_parameter(
          mesh, {prefix + ".mlp.norm", {config.hidden}, dense_weight(Cut::whole), Init::ones})),
      mlp_(prefix + ".mlp", config, mesh) {}

Tensor Mlp::forward(const Tensor& x, Context& context) {
  const Tensor y = mlp_.forward(rms_norm(x, norm_, config_.norm_eps), context);
  return add(x, residual_dropout(y, config_.dropout, layer_, 1, context));
}

void Mlp::visit(const Visitor& visitor) {
  visitor.parameter(norm_);
  mlp_.visit(visitor);
}

}  // namespace pf
