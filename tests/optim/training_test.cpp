// Several steps of a whole model.
#include <gtest/gtest.h>

#include "optim/adamw.h"
#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 8;

config::Optimizer usual() {
  config::Optimizer config;
  config.set_lr(0.01);
  return config;
}

Numbers losses_of_steps(const Recipe& recipe, const Mesh& mesh, int steps, double clip = 1) {
  SmallModel model(recipe, mesh, length);
  AdamW optimizer(usual(), [&](const Visitor& visitor) { model.transformer().visit(visitor); });
  const Samples samples = uneven_samples(12, length, recipe.model.vocabulary());
  Numbers losses;
  for (int step = 0; step < steps; ++step) {
    const StepOutcome out = model.step(samples, step);
    optimizer.step(0.01, out.norm > clip ? clip / out.norm : 1);
    losses.insert(losses.end(), {out.loss, out.balance_loss, out.z_loss, out.norm});
  }
  return losses;
}

Numbers train(const Recipe& recipe, int ranks, int steps = 10) {
  Numbers losses;
  in_ranks(ranks, [&](const Mesh& mesh) {
    const Numbers mine = losses_of_steps(recipe, mesh, steps);
    if (mesh.rank() == 0) losses = mine;
  });
  return losses;
}

Recipe of_type(DType type) {
  Recipe recipe{.model = small_moe(config::Balance::mixed), .type = type};
  // Auxiliary losses as small as in practice.
  recipe.model.mutable_moe()->set_z_loss(1e-3);
  recipe.model.mutable_moe()->mutable_balance()->set_weight(0.01);
  return recipe;
}

TEST(Training, LowersTheLoss) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    const Numbers losses = train(of_type(type), 1, 30);
    EXPECT_LT(losses[losses.size() - 4], 0.7 * losses[0]) << name(type);
  }
}

// The contract of docs/design.md, section 6.
TEST(Training, InF32TenStepsEqualOneRankWithinATenThousandth) {
  const Numbers want = train(of_type(DType::f32), 1);
  for (const int ranks : {2, 3, 4}) {
    const Numbers got = train(of_type(DType::f32), ranks);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 1e-4 * want[i]) << ranks << " ranks, step " << i / 4;
  }
}

TEST(Training, InF64TenStepsEqualOneRankFarCloser) {
  const Numbers want = train(of_type(DType::f64), 1), got = train(of_type(DType::f64), 4);
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-10 * want[i]) << i;
}

TEST(Training, TheSameSeedGivesTheSameBitsTwice) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int ranks : {1, 2})
      EXPECT_EQ(train(of_type(type), ranks), train(of_type(type), ranks)) << name(type);
}

TEST(Training, RecomputedLayersGiveTheSameBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Recipe recipe = of_type(type);
    recipe.model.set_dropout(0.1);
    const Numbers want = train(recipe, 2);
    recipe.recompute = {Recompute::full};
    EXPECT_EQ(train(recipe, 2), want) << name(type);
  }
}

TEST(Training, OnMetaNeedsExactlyTheMemoryOfTheRealRun) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    Recipe recipe = of_type(type);
    recipe.model.mutable_moe()->set_top_k(4);  // of 4 experts: balanced
    Device real(make_cpu_backend(1)), meta(make_meta_backend(make_cpu_backend(1)));
    for (Device* device : {&real, &meta}) {
      FakeCommunicator alone(0, 1);
      losses_of_steps(recipe, Mesh(alone, *device), 2);
    }
    EXPECT_EQ(meta.memory().peak, real.memory().peak) << name(type);
    EXPECT_EQ(real.memory().live, 0u);
    EXPECT_EQ(meta.memory().live, 0u);
  }
}

}  // namespace
}  // namespace pf
