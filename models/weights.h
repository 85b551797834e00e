// How the weights of a model are spread, and how tokens enter and leave a block.
#pragma once

#include <optional>

#include "models/layer.h"

namespace pf {

enum class Cut { whole, rows, columns };

// A dense weight: replicated on cp and dp, and on tp whole or cut.
inline Label dense_weight(Cut cut) {
  const Spread on_tp = cut == Cut::whole  ? Spread::replicated
                       : cut == Cut::rows ? Spread::rows
                                          : Spread::columns;
  return dense(on_tp, Spread::replicated, Spread::replicated);
}
// A weight [experts, out, in]: cut by experts on ep, replicated on edp, cut in rows or columns on
// etp.
inline Label expert_weight(Cut cut) {
  return expert(cut == Cut::rows ? Spread::rows : Spread::columns, Spread::experts,
                Spread::replicated);
}

// A named parameter, placed on the mesh.
struct WeightSpec {
  std::string name;
  Shape whole;
  Label label;
  Init init = Init::normal;
  double std = 0;
  std::optional<Role> role = {};
  bool nearly_even = false;  // ranks' parts may differ by one row
};
Parameter make_parameter(const Mesh& mesh, const WeightSpec& spec);
// One that not every model has.
Parameter& make_parameter(std::optional<Parameter>& w, const Mesh& mesh, const WeightSpec& spec);

// A bias is all zeros at first. `biased` adds one where there is one.
void make_bias(std::optional<Parameter>& bias, const Mesh& mesh, const std::string& name,
               std::int64_t size, const Label& label);
Tensor biased(const Tensor& x, std::optional<Parameter>& bias);

// A constant that all stages have, for one of them: what it makes is this stage's own.
Tensor of_stage(const Tensor& constant);

// Sequence parallelism (Korthikanti et al. 2022): between blocks tokens are cut over tp; a block
// gathers them and leaves its partial sums scattered.
Tensor enter(const Tensor& x, const Context& context);
Tensor leave(const Tensor& x, const Context& context);
// Whether a block's products keep the very tensor that entered, not one gathered from it.
bool keeps_own(const Context& context);

// Dropout at the end of a residual branch of `layer`; `site` tells two of one layer apart.
Tensor residual_dropout(const Tensor& x, double p, int layer, int site, const Context& context);

}  // namespace pf
