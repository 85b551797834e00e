#include "models/weights.h"

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "parallel/table.h"

namespace pf {

Parameter make_parameter(const Mesh& mesh, const WeightSpec& spec) {
  return Parameter(spec.name, spec.whole,
                   mesh.place(spec.name, spec.whole, spec.label, spec.nearly_even), spec.label,
                   spec.init, spec.std, spec.role);
}

Parameter& make_parameter(std::optional<Parameter>& w, const Mesh& mesh, const WeightSpec& spec) {
  return w.emplace(spec.name, spec.whole,
                   mesh.place(spec.name, spec.whole, spec.label, spec.nearly_even), spec.label,
                   spec.init, spec.std, spec.role);
}

void make_bias(std::optional<Parameter>& bias, const Mesh& mesh, const std::string& name,
               std::int64_t size, const Label& label) {
  make_parameter(bias, mesh, {name, {size}, label, Init::zeros});
}

Tensor biased(const Tensor& x, std::optional<Parameter>& bias) {
  return bias ? add_bias(x, *bias) : x;
}

Tensor of_stage(const Tensor& constant) {
  return constant.labelled(
      move("of_stage", constant.label(), axes::pp, Spread::replicated, Spread::layers));
}

Tensor enter(const Tensor& x, const Context& context) {
  return all_gather(x, *context.mesh, axes::tp);
}

Tensor leave(const Tensor& x, const Context& context) {
  return reduce_scatter(x, *context.mesh, axes::tp);
}

bool keeps_own(const Context& context) {
  return context.mesh->size(axes::tp) == 1;
}

Tensor residual_dropout(const Tensor& x, double p, int layer, int site, const Context& context) {
  if (p == 0 || !context.is_training) return x;
  const Random random{context.seed, std::uint32_t(0x40000000 + 2 * layer + site),
                      std::uint32_t(context.step)};
  return dropout(x, p, random, slice(context.batch.token, *context.mesh, axes::tp), x.columns());
}

}  // namespace pf
