// The attention part of a transformer layer.
#pragma once

#include <optional>

#include "models/attend.h"
#include "models/norm.h"

namespace pf {

struct AttentionConfig {
  std::int64_t hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  NormConfig norm = {};
  double init_std = 0.02, out_std = 0.02, dropout = 0;
  double score_factor = 1;  // beside 1 / sqrt(head_dim)
  std::int64_t window = 0;  // keys that a query sees; 0: all before it
  CpMethod cp_method = CpMethod::all_gather;
  bool has_qkv_bias = false, has_out_bias = false, has_qk_norm = false;
  bool rebuilds = false;  // backward makes again what attention keeps and little work gives
};

// x + out(attention(rope(q), rope(k), v)) of norm(x), with grouped-query heads (Ainslie et al.
// 2023); optionally RMSNorm over each head of q and k (Dehghani et al. 2023).
class Attention {
 public:
  // `prefix` is the layer's name, `table` [positions, head_dim] made by rope_table(), or null where
  // positions are elsewhere.
  Attention(const std::string& prefix, int layer, const AttentionConfig& config, const Mesh& mesh,
            const Tensor* table);
  Tensor forward(const Tensor& x, Context& context);
  void visit(const Visitor& visitor);

 private:
  Tensor placed(const Tensor& x, std::optional<Norm>& norm, const Batch& batch) const;
  bool rebuilds_heads(const Context& context) const;

  int layer_;
  AttentionConfig config_;
  const Tensor* table_;
  Norm norm_;
  Parameter q_, k_, v_, out_;
  std::optional<Parameter> q_bias_, k_bias_, v_bias_, out_bias_;
  std::optional<Norm> q_norm_, k_norm_;
  Pack qkv_, out_pack_;
};

}  // namespace pf
