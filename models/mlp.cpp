#include "models/mlp.h"

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "models/weights.h"

namespace pf {
namespace {

// [ffn, hidden], outputs cut over tp; and back, inputs cut.
Parameter make_up(const Mesh& mesh, const std::string& name, const MlpConfig& c) {
  return make_parameter(
      mesh, {name, {c.ffn, c.hidden}, dense_weight(Cut::rows), Init::normal, c.init_std});
}
Parameter make_down(const Mesh& mesh, const std::string& name, const MlpConfig& c) {
  return make_parameter(
      mesh, {name, {c.hidden, c.ffn}, dense_weight(Cut::columns), Init::normal, c.out_std});
}

}  // namespace

SwiGlu::SwiGlu(const std::string& prefix, const MlpConfig& c, const Mesh& mesh)
    : gate_(make_up(mesh, prefix + ".gate", c)),
      up_(make_up(mesh, prefix + ".up", c)),
      down_(make_down(mesh, prefix + ".down", c)),
      gate_up_(prefix + ".gate_up", {&gate_, &up_}),
      down_pack_(prefix + ".down", {&down_}) {
  if (!c.has_gate) return;
  Parameter& w = make_parameter(switch_, mesh,
                                {prefix + ".switch",
                                 {1, c.hidden},
                                 dense_weight(Cut::whole),
                                 Init::normal,
                                 c.init_std,
                                 Role::router});
  switch_pack_.emplace(prefix + ".switch", std::vector<Parameter*>{&w});
}

Tensor SwiGlu::forward(const Tensor& h, Context& context) {
  const Tensor x = enter(h, context);
  const auto gate_up = linear(x, gate_up_);  // columns: ffn / tp
  // The product that follows is linear: what multiplies its result may multiply its operand.
  Tensor share;
  if (switch_pack_)
    share = activation(cast(linear(x, *switch_pack_)[0], accumulation(x.dtype())),
                       ActivationKind::sigmoid);
  return leave(linear_of_swiglu(gate_up[0], gate_up[1], share, down_pack_), context);
}

void SwiGlu::visit(const Visitor& visitor) {
  for (Parameter* w : {&gate_, &up_, &down_}) visitor.parameter(*w);
  if (switch_) visitor.parameter(*switch_);
  for (Pack* pack : {&gate_up_, &down_pack_}) visitor.pack(*pack);
  if (switch_pack_) visitor.pack(*switch_pack_);
}

PlainMlp::PlainMlp(const std::string& prefix, const MlpConfig& c, const Mesh& mesh)
    : activation_(c.activation.value()),
      rebuilds_(c.rebuilds),
      up_(make_up(mesh, prefix + ".up", c)),
      down_(make_down(mesh, prefix + ".down", c)),
      up_pack_(prefix + ".up", {&up_}),
      down_pack_(prefix + ".down", {&down_}) {
  if (!c.has_bias) return;
  make_bias(up_bias_, mesh, prefix + ".up.bias", c.ffn, dense_weight(Cut::rows));
  make_bias(down_bias_, mesh, prefix + ".down.bias", c.hidden, dense_weight(Cut::whole));
}

Tensor PlainMlp::forward(const Tensor& h, Context& context) {
  const Tensor up = biased(linear(enter(h, context), up_pack_)[0], up_bias_);  // columns: ffn / tp
  const auto inner = [up, kind = activation_] { return activation(up, kind); };
  const Tensor a = inner();
  const Tensor y = linear(a, down_pack_)[0];
  if (rebuilds_) Tape::rebuild(a, inner);
  return biased(leave(y, context), down_bias_);
}

void PlainMlp::visit(const Visitor& visitor) {
  for (Parameter* w : {&up_, &down_}) visitor.parameter(*w);
  for (auto* bias : {&up_bias_, &down_bias_})
    if (*bias) visitor.parameter(**bias);
  for (Pack* pack : {&up_pack_, &down_pack_}) visitor.pack(*pack);
}

Mlp::Mlp(const std::string& prefix, int layer, const MlpConfig& c, const Mesh& mesh)
    : layer_(layer),
      dropout_(c.dropout),
      rebuilds_(c.rebuilds),
      norm_(prefix + ".mlp.norm", c.norm, mesh) {
  if (c.activation)
    plain_.emplace(prefix + ".mlp", c, mesh);
  else
    gated_.emplace(prefix + ".mlp", c, mesh);
}

Tensor Mlp::forward(const Tensor& x, Context& context) {
  const PurposeScope of_part("mlp");
  const auto normed = [=, this] { return norm_.forward(x); };
  const Tensor h = normed();
  const Tensor y = gated_ ? gated_->forward(h, context) : plain_->forward(h, context);
  if (rebuilds_ && keeps_own(context)) Tape::rebuild(h, normed);
  const PurposeScope of_sum("residual");
  return add(x, residual_dropout(y, dropout_, layer_, 1, context));
}

void Mlp::visit(const Visitor& visitor) {
  norm_.visit(visitor);
  if (gated_) gated_->visit(visitor);
  if (plain_) plain_->visit(visitor);
}

}  // namespace pf
