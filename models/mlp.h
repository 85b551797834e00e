// The dense part of a transformer layer: SwiGLU, as a whole block or as the expert that every token
// goes to, and the plain MLP.
#pragma once

#include <optional>

#include "core/backend.h"
#include "models/norm.h"

namespace pf {

struct MlpConfig {
  std::int64_t hidden = 0, ffn = 0;
  NormConfig norm = {};
  double init_std = 0.02, out_std = 0.02, dropout = 0;
  std::optional<ActivationKind> activation = {};  // of a plain MLP; none: SwiGLU
  bool has_bias = false;                          // of a plain MLP
  bool has_gate = false;                          // of SwiGLU, on its output
  bool rebuilds = false;  // backward makes again what products keep and little work gives
};

// down(silu(gate(h)) * up(h)) (Shazeer 2020), optionally times sigmoid(switch(h)); tokens enter and
// leave.
class SwiGlu {
 public:
  SwiGlu(const std::string& prefix, const MlpConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& h, Context& context);
  void visit(const Visitor& visitor);

 private:
  Parameter gate_, up_, down_;
  Pack gate_up_, down_pack_;
  std::optional<Parameter> switch_;
  std::optional<Pack> switch_pack_;
};

// down(activation(up(h) + bias)) + bias; tokens enter and leave.
class PlainMlp {
 public:
  PlainMlp(const std::string& prefix, const MlpConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& h, Context& context);
  void visit(const Visitor& visitor);

 private:
  ActivationKind activation_;
  bool rebuilds_;
  Parameter up_, down_;
  std::optional<Parameter> up_bias_, down_bias_;
  Pack up_pack_, down_pack_;
};

// x + SwiGLU or a plain MLP of norm(x).
class Mlp {
 public:
  Mlp(const std::string& prefix, int layer, const MlpConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& x, Context& context);
  void visit(const Visitor& visitor);

 private:
  int layer_;
  double dropout_;
  bool rebuilds_;
  Norm norm_;
  std::optional<SwiGlu> gated_;
  std::optional<PlainMlp> plain_;
};

}  // namespace pf
