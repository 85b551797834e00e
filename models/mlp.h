// SwiGLU, as a whole block or as the expert that every token goes to.
#pragma once

#include "models/layer.h"

namespace pf {

struct MlpConfig {
  std::int64_t hidden = 0, ffn = 0;
  double norm_eps = 1e-5, init_std = 0.02, out_std = 0.02, dropout = 0;
};

// down(silu(gate(h)) * up(h)) (Shazeer 2020); tokens enter and leave.
class SwiGlu {
 public:
  SwiGlu(const std::string& prefix, const MlpConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& h, Context& context);
  void visit(const Visitor& visitor);

 private:
  Parameter gate_, up_, down_;
  Pack gate_up_, down_pack_;
};

// x + SwiGLU of rms_norm(x).
class Mlp {
 public:
  Mlp(const std::string& prefix, int layer, const MlpConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& x, Context& context);
  void visit(const Visitor& visitor);

 private:
  int layer_;
  MlpConfig config_;
  Parameter norm_;
  SwiGlu mlp_;
};

}  // namespace pf
