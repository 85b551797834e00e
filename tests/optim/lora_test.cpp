// Training of low-rank changes alone.
#include <gtest/gtest.h>

#include "optim/optimizer.h"
#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 8, count = 12;
using Kind = config::Optimizer;
constexpr Kind::Kind kinds[] = {Kind::adamw, Kind::sgd, Kind::muon};
constexpr DType all_types[] = {DType::f64, DType::f32, DType::bf16};

struct Trained {
  Numbers losses;
  std::map<std::string, Numbers> before, weights;
  std::size_t state = 0;  // bytes

  friend bool operator==(const Trained& a, const Trained& b) {
    return a.losses == b.losses && a.weights == b.weights;
  }
};

Recipe with_adapters(DType type = DType::f64) {
  return {.model = small_moe(config::Balance::mixed),
          .type = type,
          .adapted = {.names = {"attention.q", "attention.v", "attention.out", "experts.up",
                                "experts.down"},
                      .rank = 3}};
}

Trained train(Recipe recipe, Kind::Kind kind, const Mesh& mesh, int steps, int sharing = 1) {
  config::Optimizer config;
  config.set_kind(kind);
  recipe.sharing = {sharing, [&](const Parameter& w) { return needs_matrices(w, config); }};
  SmallModel model(recipe, mesh, length);
  Trained out;
  out.before = model.weights();
  const std::size_t before = mesh.device().memory().live;
  const auto optimizer =
      make_optimizer(config, mesh, model.gradients().parts(),
                     [&](const Visitor& visitor) { model.transformer().visit(visitor); });
  out.state = mesh.device().memory().live - before;
  const Samples samples = uneven_samples(count, length, recipe.model.vocabulary());
  for (int step = 0; step < steps; ++step) {
    const StepOutcome one = model.step(samples, step);
    optimizer->step(0.02, one.norm > 1 ? 1 / one.norm : 1);
    model.gradients().share_values();
    out.losses.insert(out.losses.end(), {one.loss, one.balance_loss, one.z_loss});
  }
  model.gradients().wait_for_values();
  out.weights = model.weights();
  return out;
}

// Of the last rank.
Trained train(const Recipe& recipe, Kind::Kind kind, int ranks, int steps, int sharing = 1) {
  Trained out;
  in_ranks(ranks, [&](const Mesh& mesh) {
    const Trained mine = train(recipe, kind, mesh, steps, sharing);
    if (mesh.rank() == ranks - 1) out = mine;
  });
  return out;
}

double distance(const Trained& a, const Trained& b) {
  double worst = pf::distance(a.losses, b.losses, 1);
  for (const auto& [name, w] : a.weights)
    worst = std::max(worst, pf::distance(w, b.weights.at(name), 1));
  return worst;
}

TEST(LoraTraining, LowersTheLossAndLeavesEveryOtherWeightItsBits) {
  for (const DType type : all_types) {
    Recipe recipe = with_adapters(type);
    recipe.model.mutable_moe()->set_z_loss(1e-3);
    recipe.model.mutable_moe()->mutable_balance()->set_weight(0.01);
    const Trained out = train(recipe, Kind::adamw, 1, 30);
    EXPECT_LT(out.losses[out.losses.size() - 3], 0.9 * out.losses[0]) << name(type);
    for (const auto& [name, value] : out.weights) {
      const bool is_change = name.ends_with(".lora.a") || name.ends_with(".lora.b");
      EXPECT_EQ(value != out.before.at(name), is_change) << name;
    }
  }
}

TEST(LoraTraining, EqualsOneRankAlsoWithADividedState) {
  for (const Kind::Kind kind : kinds) {
    const Trained want = train(with_adapters(), kind, 1, 4);
    for (const int ranks : {2, 3})
      for (const int sharing : {1, 0})
        EXPECT_LT(distance(want, train(with_adapters(), kind, ranks, 4, sharing)), 1e-10)
            << Kind::Kind_Name(kind) << ' ' << ranks << ' ' << sharing;
  }
}

TEST(LoraTraining, WithADividedStateHasTheBitsOfReplicasThatShareNothing) {
  for (const DType type : all_types) {
    Recipe recipe = with_adapters(type);
    recipe.recompute = {Recompute::full};
    EXPECT_TRUE(train(recipe, Kind::adamw, 2, 4, 0) == train(recipe, Kind::adamw, 2, 4, 1))
        << name(type);
  }
}

TEST(LoraTraining, RecomputedLayersGiveTheSameBits) {
  for (const DType type : all_types) {
    Recipe recipe = with_adapters(type);
    recipe.model.set_dropout(0.1);
    const Trained want = train(recipe, Kind::adamw, 2, 4);
    recipe.recompute = {Recompute::full};
    EXPECT_TRUE(train(recipe, Kind::adamw, 2, 4) == want) << name(type);
  }
}

// Two moments of AdamW for each element of A and B, and of nothing else.
TEST(LoraTraining, OnlyTheChangesHaveAState) {
  const Trained out = train(with_adapters(), Kind::adamw, 1, 1);
  std::size_t elements = 0;
  for (const auto& [name, value] : out.weights)
    if (name.ends_with(".lora.a") || name.ends_with(".lora.b")) elements += value.size();
  EXPECT_GT(elements, 0u);
  EXPECT_EQ(out.state, 2 * elements * sizeof(double));
}

TEST(LoraTraining, OnMetaNeedsExactlyTheMemoryOfTheRealRunAndLessThanAllOfTheModel) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Recipe recipe = with_adapters(type);
    recipe.model.set_hidden(64);
    recipe.model.set_ffn(128);
    recipe.model.mutable_moe()->set_ffn(64);
    recipe.model.mutable_moe()->set_top_k(4);  // of 4 experts: balanced
    const auto peak = [&](const Recipe& of, bool is_real) {
      Device device(is_real ? make_cpu_backend(1) : make_meta_backend(make_cpu_backend(1)));
      FakeCommunicator alone(0, 1);
      train(of, Kind::adamw, Mesh(alone, device), 2);
      return device.memory().peak;
    };
    const std::size_t real = peak(recipe, true);
    EXPECT_EQ(peak(recipe, false), real) << name(type);
    recipe.adapted = {};
    EXPECT_LT(double(real), 0.75 * double(peak(recipe, true))) << name(type);
  }
}

}  // namespace
}  // namespace pf
