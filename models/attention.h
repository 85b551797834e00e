// The attention part of a transformer layer.
#pragma once

#include "models/layer.h"

namespace pf {

struct AttentionConfig {
  std::int64_t hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  double norm_eps = 1e-5, init_std = 0.02, out_std = 0.02, dropout = 0;
};

// x + out(attention(rope(q), rope(k), v)) of rms_norm(x), with grouped-query heads (Ainslie et al.
// 2023).
class Attention {
 public:
  // `prefix` is the layer's name, `table` [positions, head_dim] made by rope_table().
  Attention(const std::string& prefix, int layer, const AttentionConfig& config, const Mesh& mesh,
            const Tensor* table);
  Tensor forward(const Tensor& x, Context& context);
  void visit(const Visitor& visitor);

 private:
  int layer_;
  AttentionConfig config_;
  const Tensor* table_;
  Parameter norm_, q_, k_, v_, out_;
  Pack qkv_, out_pack_;
};

}  // namespace pf
