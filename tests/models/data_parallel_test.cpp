// Replicas that share a global batch do what one rank does.
#include <gtest/gtest.h>

#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using Kind = config::Balance;

constexpr std::int64_t length = 5, count = 12;  // tokens, sequences
constexpr Kind::Kind kinds[] = {Kind::none, Kind::micro, Kind::sequence, Kind::global, Kind::mixed};

// Any order of the same f64 sums (docs/design.md, section 6).
constexpr double rounding = 1e-10;

std::vector<StepOutcome> step(const Recipe& recipe, int ranks, const Samples& samples) {
  std::vector<StepOutcome> out{std::size_t(ranks)};
  in_ranks(ranks, [&](const Mesh& mesh) {
    out[std::size_t(mesh.rank())] = SmallModel(recipe, mesh, length).step(samples);
  });
  return out;
}

bool is_legal(std::int64_t group, int ranks) {
  return group % ranks == 0 || ranks % group == 0;
}

void expect_like_one_rank(const Recipe& recipe) {
  const Samples samples = uneven_samples(count, length, recipe.model.vocabulary());
  const StepOutcome want = step(recipe, 1, samples)[0];
  for (const int ranks : {2, 3, 4}) {
    if (!is_legal(recipe.group, ranks)) continue;
    const std::vector<StepOutcome> got = step(recipe, ranks, samples);
    EXPECT_LT(distance(want, got[0]), rounding) << ranks << " ranks, group " << recipe.group;
    for (const StepOutcome& other : got) EXPECT_EQ(other, got[0]);
  }
}

Recipe with_balance(Kind::Kind kind, std::int64_t group = 1) {
  return {.model = small_moe(kind), .group = group};
}

TEST(DataParallel, EachBalanceEqualsOneRank) {
  for (const Kind::Kind kind : kinds) {
    SCOPED_TRACE(Kind::Kind_Name(kind));
    expect_like_one_rank(with_balance(kind));
  }
}

// 8 does not divide the 12 micro-batches: the last group is cut short.
TEST(DataParallel, EachGroupOfTheGlobalBalanceEqualsOneRank) {
  for (const Kind::Kind kind : {Kind::global, Kind::mixed})
    for (const std::int64_t group : {2, 3, 4, 6, 8, 12})
      expect_like_one_rank(with_balance(kind, group));
}

std::int64_t gathered(const Mesh& mesh) {
  std::int64_t calls = 0;
  for (const Traffic& t : mesh.communicator().traffic())
    if (t.kind == "gather_weights") calls += t.calls;
  return calls;
}

TEST(DataParallel, BackwardGathersAllDividedWeightsButTheEmbedding) {
  Recipe recipe = with_balance(Kind::none);
  recipe.sharing = {.ranks = 0, .divided = Divided::weights};
  in_ranks(2, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    const Samples samples = even_samples(2, length, recipe.model.vocabulary());
    Context context;
    context.mesh = &mesh;
    context.type = recipe.type;
    context.batch =
        make_batch(mesh, {.count = 2, .ids = samples.ids, .targets = samples.targets}, recipe.type);
    model.pipeline().evaluate(context);
    const std::int64_t all = gathered(mesh);
    EXPECT_GT(all, 4);
    model.step(samples);  // forward, backward, and once more to show all gradients
    EXPECT_EQ(gathered(mesh) - all, 3 * all - 1);
  });
}

TEST(DataParallel, WhatIsCountedTogetherMatters) {
  const Samples samples = uneven_samples(count, length, 11);
  const double by_one = step(with_balance(Kind::global, 1), 1, samples)[0].balance_loss;
  const double by_four = step(with_balance(Kind::global, 4), 1, samples)[0].balance_loss;
  EXPECT_GT(std::abs(by_one - by_four), 1e-3);
}

TEST(DataParallel, BothRoutersEqualOneRank) {
  Recipe recipe = with_balance(Kind::mixed, 4);
  recipe.model.mutable_moe()->set_router(config::Moe::top_k_softmax);
  expect_like_one_rank(recipe);
}

TEST(DataParallel, DenseLayersEqualOneRank) {
  Recipe recipe = with_balance(Kind::global, 2);
  recipe.model.mutable_moe()->set_every(2);
  expect_like_one_rank(recipe);
  recipe.model.clear_moe();
  expect_like_one_rank(recipe);
}

TEST(DataParallel, RecomputedAndDeferredEqualOneRank) {
  for (const Kind::Kind kind : {Kind::sequence, Kind::global, Kind::mixed}) {
    for (const auto recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
      Recipe recipe = with_balance(kind, 4);
      recipe.recompute = {recompute};
      recipe.schedule =
          recompute != Recompute::none ? ScheduleKind::one_f_one_b : ScheduleKind::zero_bubble_h1;
      expect_like_one_rank(recipe);
      recipe.schedule = ScheduleKind::zero_bubble_h1;
      expect_like_one_rank(recipe);
    }
  }
}

TEST(DataParallel, ChunksOfTheHeadEqualOneRank) {
  Recipe recipe;
  recipe.head_chunk = 2;
  expect_like_one_rank(recipe);
}

TEST(DataParallel, DropoutEqualsOneRank) {
  Recipe recipe = with_balance(Kind::mixed);
  recipe.model.set_dropout(0.3);
  expect_like_one_rank(recipe);
}

// One choice of four experts, for 20 tokens: some layer's expert stays without a token of a
// replica, or of all. Its gradient is zero there and takes part in the sum.
TEST(DataParallel, ExpertsWithoutTokensEqualOneRank) {
  Recipe recipe = with_balance(Kind::micro);
  recipe.model.mutable_moe()->set_top_k(1);
  recipe.model.mutable_moe()->set_experts(32);
  expect_like_one_rank(recipe);
}

TEST(DataParallel, InF32AStepEqualsOneRankUpToRounding) {
  Recipe recipe = with_balance(Kind::mixed, 4);
  recipe.type = DType::f32;
  const Samples samples = uneven_samples(count, length, 11);
  const StepOutcome want = step(recipe, 1, samples)[0];
  for (const int ranks : {2, 4})
    EXPECT_LT(distance(want, step(recipe, ranks, samples)[0]), 1e-4) << ranks;
}

TEST(DataParallel, TheSameSeedGivesTheSameBitsTwice) {
  const Samples samples = uneven_samples(count, length, 11);
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    for (const int ranks : {1, 3}) {
      Recipe recipe = with_balance(Kind::global, 3);
      recipe.type = type;
      recipe.model.set_dropout(0.1);
      EXPECT_EQ(step(recipe, ranks, samples), step(recipe, ranks, samples)) << name(type);
    }
  }
}

TEST(DataParallel, RecomputeAndDeferralGiveTheSameBits) {
  const Samples samples = uneven_samples(count, length, 11);
  for (const Kind::Kind kind : kinds) {
    Recipe recipe = with_balance(kind, 3);
    recipe.type = DType::f32;
    const std::vector<StepOutcome> want = step(recipe, 3, samples);
    recipe.recompute = {Recompute::full};
    EXPECT_EQ(step(recipe, 3, samples), want);
    recipe.schedule = ScheduleKind::zero_bubble_h1;
    EXPECT_EQ(step(recipe, 3, samples), want);
  }
}

TEST(DataParallel, InitialWeightsDoNotDependOnTheRanks) {
  const auto weights = [](int ranks) {
    std::map<std::string, Numbers> out;
    in_ranks(ranks, [&](const Mesh& mesh) {
      const auto mine = SmallModel({}, mesh, length).weights();
      if (mesh.rank() == ranks - 1) out = mine;
    });
    return out;
  };
  const auto one = weights(1);
  EXPECT_EQ(weights(2), one);
  EXPECT_EQ(weights(4), one);
}

TEST(DataParallel, ExpertCountsAddUpToTheValidTokensChoices) {
  const Samples samples = uneven_samples(count, length, 11);
  for (const int ranks : {1, 2, 3, 4}) {
    const StepOutcome out = step({}, ranks, samples)[0];
    EXPECT_EQ(out.expert_counts.size(), 2u);
    for (const Numbers& counts : out.expert_counts)
      EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0.0), samples.tokens() * 2);
  }
}

// Nothing is trained before the first layer, half of a pack, a router; also with recompute.
TEST(DataParallel, TheGradientsOfTheOthersAreTheSameWithFrozenParameters) {
  const Samples samples = uneven_samples(count, length, 11);
  for (const auto recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
    Recipe recipe = with_balance(Kind::mixed, 4);
    recipe.recompute = {recompute};
    const StepOutcome want = step(recipe, 1, samples)[0];
    recipe.frozen = {"embedding", "layers.0.attention.k", "layers.1.moe.experts.up",
                     "layers.1.moe.router"};
    for (const int ranks : {1, 2}) {
      const StepOutcome got = step(recipe, ranks, samples)[0];
      EXPECT_EQ(got.gradients.size(), want.gradients.size() - recipe.frozen.size());
      for (const auto& [name, gradient] : got.gradients)
        EXPECT_LT(distance(want.gradients.at(name), gradient, 1), rounding) << name;
    }
  }
}

}  // namespace
}  // namespace pf
