#include "launch/prove_optimizers.h"

#include <fmt/format.h>

#include <functional>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/philox.h"
#include "launch/prove_case.h"
#include "launch/run_mesh.h"
#include "launch/terminal.h"
#include "optim/optimizer.h"

namespace pf {
namespace {

constexpr int steps = 3;
constexpr int zeros = 4;  // values of parallel.zero, from 0 on

void set_gradient(const Part& part, std::uint64_t seed, std::uint32_t step) {
  const Parameter& w = *part.parameter;
  const Tensor place = part.gradient();
  const Tensor block = Tensor::empty(w.shape(), place.dtype(), place.device());
  const std::uint64_t of_name = std::hash<std::string>()(w.name());
  const std::span<const std::int64_t> begin(w.block().begin);
  backend(block).normal(block, {seed ^ of_name, 0, step}, 1, w.whole(),
                        begin.first(std::size_t(w.whole().dims())));
  backend(block).copy(place, part.of(block));
}

config::Config with_zero(config::Config config, int zero) {
  config::Parallel& parallel = *config.mutable_parallel();
  parallel.set_zero(zero);
  if (zero == 0) parallel.set_zero_shard(0);
  return config;
}

struct OptimizerProof {
  Difference worst;
  std::string error;

  bool holds() const { return error.empty() && worst.distance < proof_bound; }
};

OptimizerProof prove_step(const config::Config& config, config::Optimizer::Kind kind,
                          const Weights& want) {
  try {
    return {difference(want, optimized(config, kind)), ""};
  } catch (const Error& error) {
    return {{}, error.what()};
  }
}

bool prove_optimizer(const LayoutsOfModel& layouts, config::Optimizer::Kind kind) {
  const Weights want = optimized(on_one_rank(layouts.legal.front()), kind);
  Difference worst;
  std::size_t failed = 0;
  for (const config::Config& layout : layouts.legal)
    for (int zero = 0; zero < zeros; ++zero) {
      const OptimizerProof proof = prove_step(with_zero(layout, zero), kind, want);
      if (proof.holds()) {
        worst.add(proof.worst.distance, proof.worst.where);
        continue;
      }
      ++failed;
      const std::string what =
          proof.error.empty() ? fmt::format("{:7.1e}  {}", proof.worst.distance, proof.worst.where)
                              : "ended: " + proof.error;
      print(fmt::format("{}   {}, zero {}: {}   DIFFERS\n", axes_text(layout), name_of(kind), zero,
                        what));
    }
  const std::size_t count = layouts.legal.size();
  if (failed > 0)
    print(fmt::format("{} NOT PROVEN: {} of {} layouts with zero 0 to {} differ\n", name_of(kind),
                      failed, zeros * count, zeros - 1));
  else
    print(fmt::format(
        "{} on equal gradients: {:.1e} (weights {}) in {} layout{}, with zero 0 to {}\n",
        name_of(kind), worst.distance, worst.where, count, count == 1 ? "" : "s", zeros - 1));
  return failed == 0;
}

}  // namespace

const char* name_of(config::Optimizer::Kind kind) {
  switch (kind) {
    case config::Optimizer::adamw:
      return "AdamW";
    case config::Optimizer::sgd:
      return "SGD";
    case config::Optimizer::muon:
      return "Muon";
  }
  return "";
}

void set_random_gradients(const Visit& visit, const Gradients& gradients, const Sharing& sharing,
                          std::uint64_t seed, std::uint32_t step) {
  visit({.parameter = [&](Parameter& w) {
    if (w.is_trainable() && sharing.divided == Divided::states)
      backend(w.gradient()).fill(w.gradient(), std::numeric_limits<double>::quiet_NaN());
  }});
  for (const Part& part : gradients.parts()) set_gradient(part, seed, step);
}

Weights optimized(const config::Config& config, config::Optimizer::Kind kind) {
  config::Config of_kind = config;
  of_kind.mutable_optimizer()->set_kind(kind);
  const Recipe recipe = recipe_of(of_kind);
  Weights out;
  on_thread_ranks(layout_of(of_kind), [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, of_kind.data().sequence());
    const auto visit = [&](const Visitor& visitor) { model.transformer().visit(visitor); };
    const auto optimizer =
        make_optimizer(of_kind.optimizer(), mesh, model.gradients().parts(), visit);
    for (std::uint32_t step = 0; step < steps; ++step) {
      set_random_gradients(visit, model.gradients(), recipe.sharing, recipe.seed, step);
      optimizer->step(proven_lr, proven_gradient_scale);
      model.gradients().share_values();
      model.gradients().wait_for_values();
    }
    Weights weights = model.weights();
    if (mesh.rank() == 0) out = std::move(weights);
  });
  return out;
}

bool prove_optimizers(const LayoutsOfModel& layouts) {
  bool all = true;
  for (const config::Optimizer::Kind kind : proven_optimizers)
    all = prove_optimizer(layouts, kind) && all;
  return all;
}

}  // namespace pf
