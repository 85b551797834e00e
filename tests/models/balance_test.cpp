#include "models/balance.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/metrics.h"
#include "models/moe.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

// Sequences of tokens. Of two experts, A and a prefer the first with scores 3/4 and 1/4, B and b
// the second with 1/4 and 3/4; the targets of small letters do not count.
using MicroBatch = std::vector<std::string>;

struct Case {
  BalanceKind kind = BalanceKind::none;
  std::vector<MicroBatch> micro_batches;
  std::int64_t group = 1;
  double z_loss = 0;
  Capacity capacity = {};
};

Context context_of(const Mesh& mesh, const MicroBatch& sequences, Tensor& x) {
  const auto tokens = std::int64_t(sequences.size() * sequences[0].size());
  const std::vector<std::int32_t> ids(std::size_t(tokens), 0);
  Context context;
  context.mesh = &mesh;
  context.batch = make_batch(
      mesh, {.count = std::int64_t(sequences.size()), .ids = ids, .targets = ids}, DType::f64);
  context.type = DType::f64;
  context.is_training = true;
  x = Tensor::empty({tokens, 2}, DType::f64, mesh.device(),
                    dense(Spread::rows, Spread::rows, Spread::rows));
  std::int64_t row = 0;
  for (const std::string& sequence : sequences) {
    for (const char token : sequence) {
      x.data<double>()[2 * row] = token == 'A' || token == 'a' ? 1 : -1;
      x.data<double>()[2 * row + 1] = 1;
      context.batch.present.data<double>()[row++] = token < 'a' ? 1 : 0;
    }
  }
  return context;
}

struct TwoExperts {
  TwoExperts(const Mesh& mesh, BalanceKind kind, double z_loss, const Capacity& capacity = {})
      : moe("layer", 0,
            {.hidden = 2,
             .experts = 2,
             .top_k = 1,
             .ffn = 1,
             .capacity = capacity,
             .balance = kind,
             .balance_weight = 1,
             .z_loss = z_loss,
             .norm = {.width = 2, .eps = 0}},
            mesh) {
    moe.visit({.parameter = [&](Parameter& w) {
      w.initialise(mesh.device(), DType::f64, 1, 1);
      if (w.name() != "layer.moe.router") return;
      backend(w.value()).fill(w.value(), 0);
      w.value().data<double>()[0] = std::log(3.0);
    }});
  }
  Moe moe;
};

// With weight 1, on one rank.
StepStatistics losses_of(const Case& c) {
  StepStatistics out;
  in_ranks(1, [&](const Mesh& mesh) {
    TwoExperts experts(mesh, c.kind, c.z_loss, c.capacity);
    double tokens = 0;
    for (const MicroBatch& sequences : c.micro_batches)
      for (const std::string& sequence : sequences)
        for (const char token : sequence) tokens += token < 'a';

    Balance balance(mesh, c.group);
    std::vector<Context> contexts;
    for (std::size_t j = 0; j < c.micro_batches.size(); ++j) {
      Tensor x;
      contexts.push_back(context_of(mesh, c.micro_batches[j], x));
      contexts.back().micro_batch = std::int64_t(j);
      contexts.back().tokens = tokens;
      contexts.back().balance = &balance;
      experts.moe.forward(x, contexts.back());
      if (std::int64_t(j + 1) % balance.steps_together() == 0) balance.bind(std::int64_t(j));
    }
    balance.bind(std::ssize(contexts) - 1);
    std::vector<Statistics> all;
    all.reserve(contexts.size());
    for (const Context& context : contexts) all.push_back(context.statistics);
    out = over_mesh(mesh, {{0}, 2, c.capacity.block > 0}, all, 0);
  });
  return out;
}

double balance_loss(BalanceKind kind, std::vector<MicroBatch> micro_batches,
                    std::int64_t group = 1) {
  return losses_of({.kind = kind, .micro_batches = std::move(micro_batches), .group = group})
      .balance_loss;
}

constexpr double rounding = 1e-15;

TEST(Balance, WithoutItThereIsNoLoss) {
  EXPECT_EQ(balance_loss(BalanceKind::none, {{"AAAB"}}), 0);
}

TEST(Balance, EvenChoicesCostOne) {
  EXPECT_NEAR(balance_loss(BalanceKind::micro, {{"ABBA"}}), 1, rounding);
}

TEST(Balance, MicroCountsAMicroBatch) {
  // f = 3/4, 1/4 and P = 5/8, 3/8.
  EXPECT_NEAR(balance_loss(BalanceKind::micro, {{"AAAB"}}), 2 * (15. / 32 + 3. / 32), rounding);
  EXPECT_NEAR(balance_loss(BalanceKind::micro, {{"AA", "AB"}}), 1.125, rounding);
  // 3/2 for {A, A}, 1 for {A, B}.
  EXPECT_NEAR(balance_loss(BalanceKind::micro, {{"AA"}, {"AB"}}), 1.25, rounding);
}

TEST(Balance, SequenceCountsEachSequence) {
  EXPECT_NEAR(balance_loss(BalanceKind::sequence, {{"AA", "AB"}}), 1.25, rounding);
  EXPECT_NEAR(balance_loss(BalanceKind::sequence, {{"AA"}, {"AB"}}), 1.25, rounding);
}

TEST(Balance, TermsAreWeightedByTheirTokens) {
  // 1 of two tokens, 3/2 of one.
  EXPECT_NEAR(balance_loss(BalanceKind::sequence, {{"AB", "Aa"}}), (2 * 1 + 1.5) / 3, rounding);
  EXPECT_NEAR(balance_loss(BalanceKind::micro, {{"AB"}, {"Ab"}}), (2 * 1 + 1.5) / 3, rounding);
}

TEST(Balance, TokensThatDoNotCountAreNeitherInFNorInP) {
  EXPECT_NEAR(balance_loss(BalanceKind::micro, {{"AbAbAbBb"}}), 1.125, rounding);
  EXPECT_NEAR(balance_loss(BalanceKind::global, {{"AbAb"}, {"AbBa"}}, 2), 1.125, rounding);
}

TEST(Balance, AMicroBatchWithoutAnyAddsNothing) {
  for (const BalanceKind kind : {BalanceKind::micro, BalanceKind::sequence, BalanceKind::global})
    EXPECT_NEAR(balance_loss(kind, {{"aa"}, {"AB"}}), 1, rounding) << int(kind);
}

TEST(Balance, GlobalCountsTheStepSoFar) {
  // First f = 1, 0 with P = 3/4, 1/4, then f = 1/2, 1/2.
  EXPECT_NEAR(balance_loss(BalanceKind::global, {{"A"}, {"B"}}), (1.5 + 1) / 2, rounding);
  // First f = 1/2, 1/2; then f = P = 3/4, 1/4.
  EXPECT_NEAR(balance_loss(BalanceKind::global, {{"AB"}, {"AA"}}), (1 + 1.25) / 2, rounding);
}

TEST(Balance, GlobalCountsAGroupTogether) {
  EXPECT_NEAR(balance_loss(BalanceKind::global, {{"A"}, {"B"}}, 2), 1, rounding);
  // f = 3/4, 1/4 for the first two; 1/2, 1/2 for the last, whose group is cut short.
  EXPECT_NEAR(balance_loss(BalanceKind::global, {{"AA"}, {"AB"}, {"BB"}}, 2),
              (2 * (9. / 16 + 1. / 16) + 1 + 1) / 3, rounding);
}

TEST(Balance, MixedIsGlobalAndOneHundredthOfMicro) {
  EXPECT_NEAR(balance_loss(BalanceKind::mixed, {{"A"}, {"B"}}), 1.25 + 0.01 * 1.5, rounding);
}

TEST(Balance, TheZLossIsTheMeanSquareOfTheLogOfTheSum) {
  const double of_a = std::log(4.0), of_b = std::log(4.0 / 3);
  const double z = losses_of({.micro_batches = {{"AaA"}, {"ABb"}}, .z_loss = 2}).z_loss;
  EXPECT_NEAR(z, 2 * (3 * of_a * of_a + of_b * of_b) / 4, rounding);
}

TEST(Balance, ChoicesOfValidTokensAreCounted) {
  const auto counts = losses_of({.micro_batches = {{"AaA"}, {"ABb"}}}).expert_counts;
  EXPECT_EQ(counts, (std::vector<std::vector<double>>{{3, 1}}));
}

TEST(Balance, WhatACapacityDropsIsAShareOfTheChoicesOfValidTokens) {
  const auto dropped = [](std::vector<MicroBatch> micro_batches, bool pads) {
    return losses_of({.micro_batches = std::move(micro_batches),
                      .capacity = {.block = 2, .factor = 1, .pads = pads}})
        .dropped;
  };
  for (const bool pads : {false, true}) {
    // One choice of an expert in each block of two.
    EXPECT_EQ(dropped({{"AAAB"}, {"BBAB"}}, pads), std::vector<double>{2. / 8});
    EXPECT_EQ(dropped({{"AaBB"}}, pads), std::vector<double>{1 - 2. / 3}) << "a has no place";
    EXPECT_EQ(dropped({{"aabb"}}, pads), std::vector<double>{0}) << "no choices";
  }
  EXPECT_TRUE(losses_of({.micro_batches = {{"AA"}}}).dropped.empty());
}

TEST(Balance, ARoutingDecidedBeforeIsKept) {
  in_ranks(1, [](const Mesh& mesh) {
    TwoExperts experts(mesh, BalanceKind::micro, 0);
    Tensor x;
    Context context = context_of(mesh, {"AAAB"}, x);
    experts.moe.forward(x, context);
    Tensor& chosen = context.statistics.chosen.at(0);
    EXPECT_EQ(chosen.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 0, 0, 1}));
    backend(chosen).fill(chosen, 1);
    experts.moe.forward(x, context);
    EXPECT_EQ(context.statistics.counts.at(0).to_vector<double>(), (std::vector<double>{0, 4}));
    // f = 0, 1 and P = 5/8, 3/8; the loss is a sum over tokens.
    EXPECT_NEAR(context.statistics.balance_losses.at(0).item(), 4 * 2 * 3. / 8, rounding);
  });
}

TEST(Balance, AGroupThatTheReplicasCannotShareIsAnError) {
  const auto expect_illegal = [](int dp, std::int64_t group, const char* says) {
    in_ranks(dp, [&](const Mesh& mesh) {
      expect_error([&] { Balance(mesh, group); }, {"model.moe.balance.group", says, "multiple"});
    });
  };
  expect_illegal(3, 2, "2 and dp is 3");
  expect_illegal(4, 6, "6 and dp is 4");
  expect_illegal(2, 3, "3 and dp is 2");
  expect_illegal(1, 0, "0 and dp is 1");
}

TEST(Balance, ALargeGroupIsForwardedTogether) {
  in_ranks(2, [](const Mesh& mesh) {
    EXPECT_EQ(Balance(mesh, 1).steps_together(), 1);
    EXPECT_EQ(Balance(mesh, 2).steps_together(), 1);
    EXPECT_EQ(Balance(mesh, 8).steps_together(), 4);
  });
}

}  // namespace
}  // namespace pf
