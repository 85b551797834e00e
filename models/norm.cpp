#include "models/norm.h"

#include "core/ops/rows.h"
#include "models/weights.h"

namespace pf {

NormConfig norm_of(const config::Model& c) {
  return {c.hidden(), c.norm() == config::Model::layer ? NormKind::layer : NormKind::rms,
          c.norm_eps()};
}

Norm::Norm(const std::string& name, const NormConfig& c, const Mesh& mesh)
    : kind_(c.kind),
      eps_(c.eps),
      weight_(make_parameter(mesh, {name, {c.width}, dense_weight(Cut::whole), Init::ones})) {
  if (c.kind == NormKind::layer)
    make_bias(bias_, mesh, name + ".bias", c.width, dense_weight(Cut::whole));
}

Tensor Norm::forward(const Tensor& x) {
  if (kind_ == NormKind::layer) return layer_norm(x, weight_, *bias_, eps_);
  return kind_ == NormKind::rms ? rms_norm(x, weight_, eps_) : rms_norm_by_head(x, weight_, eps_);
}

void Norm::visit(const Visitor& visitor) {
  visitor.parameter(weight_);
  if (bias_) visitor.parameter(*bias_);
}

}  // namespace pf
