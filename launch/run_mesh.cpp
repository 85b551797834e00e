#include "launch/run_mesh.h"

#include <algorithm>

#include "optim/optimizer.h"

namespace pf {

DType type_of(config::Run::Precision precision) {
  switch (precision) {
    case config::Run::f64:
      return DType::f64;
    case config::Run::f32:
      return DType::f32;
    case config::Run::bf16:
      return DType::bf16;
  }
  return DType::f32;
}

Layout layout_of(const config::Config& config, std::int64_t ranks) {
  const config::Parallel& p = config.parallel();
  const config::Model& model = config.model();
  return Layout::make(int(ranks), int(p.tp()), int(p.cp()), int(p.ep()), int(p.etp()), int(p.pp()),
                      int(model.has_mla() ? model.heads() : model.kv_heads()));
}

Layout layout_of(const config::Config& config) {
  return layout_of(config, config.parallel().ranks());
}

Sharing sharing_of(const config::Config& config) {
  const std::int64_t zero = config.parallel().zero();
  return {zero == 0 ? 1 : int(config.parallel().zero_shard()),
          [c = config.optimizer()](const Parameter& w) { return needs_matrices(w, c); },
          Divided(std::max<std::int64_t>(zero - 1, 0))};
}

Recompute recompute_of(const config::Train& train) {
  return {Recompute::Kind(train.recompute()), train.recompute_layers()};
}

}  // namespace pf
