// The normalisation in front of a block.
#pragma once

#include <optional>
#include <string>

#include "models/layer.h"
#include "models/model.pb.h"

namespace pf {

enum class NormKind : std::uint8_t { rms, layer, rms_by_head };

struct NormConfig {
  std::int64_t width = 0;
  NormKind kind = NormKind::rms;
  double eps = 1e-5;
};

NormConfig norm_of(const config::Model& c);  // of rows of `hidden`

// RMSNorm of rows or of heads, or LayerNorm with a bias; its weights are whole on every rank.
class Norm {
 public:
  Norm(const std::string& name, const NormConfig& config, const Mesh& mesh);
  Tensor forward(const Tensor& x);
  void visit(const Visitor& visitor);

 private:
  NormKind kind_;
  double eps_;
  Parameter weight_;
  std::optional<Parameter> bias_;  // of LayerNorm
};

}  // namespace pf
