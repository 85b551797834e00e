// Multi-head latent attention.
#pragma once

#include <optional>

#include "models/attend.h"
#include "models/norm.h"

namespace pf {

struct LatentAttentionConfig {
  std::int64_t hidden = 0, heads = 0, q_rank = 0, kv_rank = 0;
  std::int64_t nope_dim = 0, rope_dim = 0, value_dim = 0;
  NormConfig norm = {};
  double init_std = 0.02, out_std = 0.02, dropout = 0, score_factor = 1;
  std::int64_t window = 0;
  CpMethod cp_method = CpMethod::all_gather;
  bool rebuilds = false;  // see AttentionConfig
};

// x + out(attention) of norm(x), where queries, and keys with values, are made from narrow
// normalised rows; a head's query and key are a part without positions and one with, whose key all
// heads share (DeepSeek-AI 2024, "DeepSeek-V2", equations 9 to 19). What is narrow is made of this
// rank's tokens and then gathered: that moves fewer bytes than gathering the tokens.
class LatentAttention {
 public:
  // `table` [positions, rope_dim] made by rope_table().
  LatentAttention(const std::string& prefix, int layer, const LatentAttentionConfig& config,
                  const Mesh& mesh, const Tensor* table);
  Tensor forward(const Tensor& x, Context& context);
  void visit(const Visitor& visitor);

 private:
  int layer_;
  LatentAttentionConfig config_;
  const Tensor* table_;
  Norm norm_, kv_norm_;
  std::optional<Norm> q_norm_;
  std::optional<Parameter> q_down_;
  Parameter kv_down_, k_rope_, q_nope_, q_rope_, k_nope_, v_, out_;
  std::optional<Pack> q_down_pack_;
  Pack kv_down_pack_, q_pack_, kv_pack_, out_pack_;
};

}  // namespace pf
