// Mixture of experts.
#pragma once

#include <optional>
#include <span>

#include "core/ops/routing.h"
#include "models/mlp.h"
#include "parallel/dispatch.h"

namespace pf {

enum class BalanceKind { none, micro, sequence, global, mixed };

struct MoeConfig {
  std::int64_t hidden = 0, experts = 0, top_k = 1, ffn = 0, shared_ffn = 0;
  Router router = {};      // without a bias
  bool is_forced = false;  // choices are even whatever the logits are
  double bias_rate = 0;
  Capacity capacity = {};  // in training; evaluation drops nothing, since drops look ahead
  bool has_shared_gate = false;
  BalanceKind balance = BalanceKind::none;
  double balance_weight = 0, z_loss = 0;
  NormConfig norm = {};
  double init_std = 0.02, out_std = 0.02, dropout = 0;
  Dispatcher dispatcher = Dispatcher::all_to_all;
  bool rebuilds = false;  // see MlpConfig
};

// x + sum of the top k experts' SwiGLU, weighted by their scores, + the shared expert, all of
// norm(x); choices beyond a capacity are dropped. The shared expert works while tokens travel. Its
// balance and z losses are roots of the tape; their definitions:
//   micro, sequence  weight * experts / tokens * sum over groups of sum_i f_i P_i, P_i the sum of
//   the
//                    group's scores, f_i its share of choices (Fedus et al. 2022, equation 4)
//   global           f over the replicas and the step so far (models/balance.h)
//   mixed            global, plus micro at 1% of the weight
//   z                z_loss / tokens * sum of lse^2 (Zoph et al. 2022, equation 5)
class Moe {
 public:
  Moe(const std::string& prefix, int layer, const MoeConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& x, Context& context);
  void visit(const Visitor& visitor);

  // After a step, with how many choices each expert got in the global batch: the bias of those that
  // got fewer than the mean rises by bias_rate, that of others falls (Wang et al. 2024, algorithm
  // 1).
  void update_bias(std::span<const double> counts);

 private:
  // Of the routed experts, and of the shared one if there is one.
  struct Outputs {
    Tensor routed, shared;
  };
  Outputs experts(const Tensor& h, const Routed& routed, Context& context);
  Tensor of_shared_expert(const Tensor& h, Context& context);
  Tensor of_experts(const ExpertRows& rows);  // of this rank
  void auxiliary_losses(const Routed& routed, Context& context) const;
  void keep_choices_of_targets(const Routed& routed, Context& context) const;

  int layer_;
  MoeConfig config_;
  Norm norm_;
  Parameter router_, gate_, up_, down_;
  std::optional<Parameter> bias_;  // of the choice: moved by update_bias() alone
  Pack router_pack_, gate_up_, down_pack_;
  std::optional<SwiGlu> shared_;
};

}  // namespace pf
