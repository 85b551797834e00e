// Routing, and moving rows to experts and back.
#include "core/ops/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;

struct RoutingOp : testing::Test {
  Device device{make_cpu_backend(2)};
  const Label tokens = dense(rows, rows, rows);

  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {},
              DType type = DType::f64) {
    return random_tensor(shape, type, device, seed, label);
  }
  // Two experts for each of five tokens; expert 3 is chosen by no one.
  Tensor choices() {
    return tensor_of<std::int32_t>({0, 4, 1, 4, 0, 2, 2, 4, 0, 1}, {5, 2}, device);
  }
};

TEST_F(RoutingOp, RouteHasTheGradientsOfFiniteDifferences) {
  for (RouterKind kind : {RouterKind::softmax_top_k, RouterKind::top_k_softmax})
    for (std::int64_t k : {1, 2, 5})
      expect_gradients(
          [=](const Tensors& x) {
            const Routed y = route(x[0], k, {kind});
            return Tensors{y.scores, y.weights, y.lse};
          },
          {make({7, 5}, 1, tokens)});
}

TEST_F(RoutingOp, EachResultOfRouteAloneHasTheGradientsOfFiniteDifferences) {
  for (RouterKind kind : {RouterKind::softmax_top_k, RouterKind::top_k_softmax})
    for (int which : {0, 1, 2})
      expect_gradients(
          [=](const Tensors& x) {
            const Routed y = route(x[0], 2, {kind});
            return Tensors{which == 0 ? y.scores : which == 1 ? y.weights : y.lse};
          },
          {make({3, 6}, 2)});
}

TEST_F(RoutingOp, RouteKeepsAChoiceThatWasMadeBefore) {
  const Tensor logits = make({5, 6}, 1);
  for (RouterKind kind : {RouterKind::softmax_top_k, RouterKind::top_k_softmax}) {
    EXPECT_EQ(route(logits, 2, {kind}, choices()).chosen.to_vector<std::int32_t>(),
              choices().to_vector<std::int32_t>());
    expect_gradients(
        [&](const Tensors& x) {
          const Routed y = route(x[0], 2, {kind}, choices());
          return Tensors{y.scores, y.weights, y.lse};
        },
        {logits});
  }
}

TEST_F(RoutingOp, RouteChoosesTheLargestLogitsAndOfEqualOnesTheLowerNumber) {
  const Tensor logits =
      tensor_of<double>({0.5, 2, 2, 2, -1, 3, -5, 3, 0, 3, 0, 0, 0, 0, 0}, {3, 5}, device);
  const Routed y = route(logits, 2, {RouterKind::softmax_top_k});
  EXPECT_EQ(y.chosen.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 2, 0, 2, 0, 1}));
}

TEST_F(RoutingOp, TheTwoKindsOfRouterDifferInWhatTheirWeightsSumTo) {
  const Tensor logits = make({4, 6}, 1);
  const Routed before = route(logits, 3, {RouterKind::softmax_top_k}),
               after = route(logits, 3, {RouterKind::top_k_softmax});
  const auto scores = before.scores.to_vector<double>();
  const auto chosen = before.chosen.to_vector<std::int32_t>();
  const auto weights = before.weights.to_vector<double>(),
             shares = after.weights.to_vector<double>();
  for (std::size_t t = 0; t < 4; ++t) {
    double sum = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      EXPECT_EQ(weights[t * 3 + j], scores[t * 6 + std::size_t(chosen[t * 3 + j])]);
      sum += weights[t * 3 + j];
    }
    for (std::size_t j = 0; j < 3; ++j)
      EXPECT_NEAR(shares[t * 3 + j], weights[t * 3 + j] / sum, 1e-15);
  }
}

TEST_F(RoutingOp, RouteWithWrongOperandsIsAnErrorThatNamesThem) {
  const Tensor logits = make({5, 6}, 1);
  const auto kind = RouterKind::softmax_top_k;
  expect_error([&] { route(logits, 7, {kind}); }, {"route", "top 7 of 6"});
  expect_error([&] { route(logits, 0, {kind}); }, {"route", "top 0 of 6"});
  expect_error([&] { route(make({5, 6}, 1, {}, DType::bf16), 2, {kind}); }, {"route", "bf16"});
  expect_error([&] { route(logits, 3, {kind}, choices()); }, {"route", "[5, 2]"});
  const Tensor wide = tensor_of<std::int64_t>({0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, {5, 2}, device);
  expect_error([&] { route(logits, 2, {kind}, wide); }, {"route", "i64"});
  expect_error(
      [&] {
        route(make({5, 6}, 1, dense(columns, rows, rows)), 2, {kind});
      },
      {"route", "columns are cut on share"});
}

TEST_F(RoutingOp, SigmoidsHaveTheGradientsOfFiniteDifferences) {
  for (const std::int64_t k : {1, 2, 5})
    for (const double scale : {1.0, 2.5})
      expect_gradients(
          [=](const Tensors& x) {
            const Routed y = route(x[0], k, {RouterKind::sigmoid_top_k, scale});
            return Tensors{y.scores, y.weights, y.lse};
          },
          {make({7, 5}, 1, tokens)});
}

TEST_F(RoutingOp, ScaledWeightsHaveTheGradientsOfFiniteDifferences) {
  for (RouterKind kind : {RouterKind::softmax_top_k, RouterKind::top_k_softmax})
    expect_gradients(
        [=](const Tensors& x) {
          const Routed y = route(x[0], 2, {kind, 16});
          return Tensors{y.scores, y.weights, y.lse};
        },
        {make({7, 5}, 1, tokens)});
}

TEST_F(RoutingOp, SigmoidsOfTheChosenAreDividedByTheirSumAndScaled) {
  const Tensor logits = tensor_of<double>({0, std::log(3.0), -40, 1e-9}, {1, 4}, device);
  const Routed y = route(logits, 2, {RouterKind::sigmoid_top_k, 2.5});
  EXPECT_EQ(y.chosen.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 3}));
  EXPECT_NEAR(y.weights.to_vector<double>()[0], 2.5 * 0.75 / 1.25, 1e-8);
  EXPECT_NEAR(y.weights.to_vector<double>()[1], 2.5 * 0.5 / 1.25, 1e-8);
  EXPECT_NEAR(y.scores.to_vector<double>()[0], 0.5 / 1.75, 1e-8);
  EXPECT_NEAR(y.lse.to_vector<double>()[0], std::log(1 + 3 + std::exp(-40) + std::exp(1e-9)),
              1e-12);
  const Routed one = route(logits, 1, {RouterKind::sigmoid_top_k});
  EXPECT_NEAR(one.weights.to_vector<double>()[0], 0.75, 1e-12);
}

// Groups {0, 1}, {2, 3}, {4, 5}: the best alone is in the first, the best two in the last.
TEST_F(RoutingOp, ChoicesStayInTheBestGroups) {
  const Tensor logits = tensor_of<double>({2.6, -9, 0, 0.5, 2, 2.5}, {1, 6}, device);
  const auto chosen = [&](std::int64_t k, const Router& router) {
    return route(logits, k, router).chosen.to_vector<std::int32_t>();
  };
  using Ids = std::vector<std::int32_t>;
  for (RouterKind kind : {RouterKind::softmax_top_k, RouterKind::sigmoid_top_k}) {
    EXPECT_EQ(chosen(2, {kind, 1, 3, 1, 1}), (Ids{0, 1}));
    EXPECT_EQ(chosen(2, {kind, 1, 3, 1, 2}), (Ids{4, 5}));
    EXPECT_EQ(chosen(2, {kind, 1, 3, 2, 1}), (Ids{0, 5}));
    EXPECT_EQ(chosen(3, {kind, 1, 3, 3, 1}), (Ids{0, 4, 5}));
  }
  expect_error(
      [&] {
        chosen(3, {RouterKind::softmax_top_k, 1, 3, 1, 1});
      },
      {"route", "top 3 of 1 of 3 groups of 6"});
  expect_error([&] { chosen(1, {RouterKind::softmax_top_k, 1, 4, 1, 1}); }, {"4 groups of 6"});
}

TEST_F(RoutingOp, ABiasMovesChoicesAndNotWeights) {
  const Tensor logits = tensor_of<double>({1, 0.9, 0.8, -1}, {1, 4}, device);
  const Tensor bias = tensor_of<double>({-0.5, 0, 0, 0.4}, {4}, device);
  const Router plain{RouterKind::sigmoid_top_k}, moved{RouterKind::sigmoid_top_k, 1, 1, 1, 1, bias};
  const Routed y = route(logits, 2, moved);
  EXPECT_EQ(y.chosen.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 2}));
  const Routed want = route(logits, 2, plain, y.chosen);
  EXPECT_EQ(y.weights.to_vector<double>(), want.weights.to_vector<double>());
  EXPECT_EQ(y.scores.to_vector<double>(), want.scores.to_vector<double>());
  expect_error([&] { route(make({1, 5}, 1), 2, moved); }, {"route", "a bias"});
}

TEST_F(RoutingOp, ForcedChoicesFollowTheTokensNumber) {
  const Tensor token = tensor_of<std::int64_t>({0, 1, 2, 1'000'000'000'003}, {4}, device);
  EXPECT_EQ(forced_choice(token, 2, 5).to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{0, 1, 2, 3, 0, 4, 1, 2}));
  expect_error([&] { forced_choice(token, 6, 5); }, {"forced_choice", "top 6 of 5"});
}

// Two blocks of three tokens; expert 0 is wanted by all, and takes ceil(0.75 * 3 * 2 / 3) = 2.
struct Drops : RoutingOp {
  const Tensor chosen =
      tensor_of<std::int32_t>({0, 1, 0, 2, 0, 1, 0, 2, 0, 2, 0, 1}, {6, 2}, device)
          .labelled(constant(tokens));
  const Tensor weights =
      tensor_of<double>({.2, .1, .9, .1, .5, .1, .4, .3, .4, .2, .4, .1}, {6, 2}, device)
          .labelled(tokens);
  Plan with(double factor, bool pads) { return plan(chosen, weights, 3, {3, factor, pads}); }
};

TEST_F(Drops, TheLargestWeightsOfEachBlockAreKeptAndOfEqualOnesTheFirst) {
  const Plan p = with(0.75, false);
  EXPECT_EQ(p.counts.to_vector<std::int64_t>(), (std::vector<std::int64_t>{4, 3, 3}));
  EXPECT_EQ(p.place.to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{-1, 4, 0, 7, 1, 5, 2, 8, 3, 9, -1, 6}));
  EXPECT_EQ(p.order.to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{2, 4, 6, 8, 1, 5, 11, 3, 7, 9}));
}

TEST_F(Drops, PaddingGivesEachExpertAsManyRows) {
  const Plan p = with(0.75, true);
  EXPECT_EQ(p.counts.to_vector<std::int64_t>(), (std::vector<std::int64_t>{4, 4, 4}));
  EXPECT_EQ(p.order.to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{2, 4, 6, 8, 1, 5, 11, -1, 3, 7, 9, -1}));
  const Plan wide = with(10, true);
  EXPECT_EQ(wide.order.size(), 3 * 40);
  EXPECT_EQ(wide.place.to_vector<std::int32_t>()[11], 42);
}

TEST_F(Drops, WhatIsLargeEnoughDropsNothing) {
  const Plan p = with(1.5, false), all = plan(chosen, 3);
  EXPECT_EQ(p.order.to_vector<std::int32_t>(), all.order.to_vector<std::int32_t>());
  EXPECT_EQ(p.place.to_vector<std::int32_t>(), all.place.to_vector<std::int32_t>());
}

TEST_F(Drops, RowsHaveTheGradientsOfFiniteDifferences) {
  for (const bool pads : {false, true}) {
    const Plan p = with(0.75, pads);
    expect_gradients(
        [&](const Tensors& x) {
          const Permuted y = permute(x[0], x[1], p);
          return Tensors{y.x, y.weights};
        },
        {make({6, 3}, 1, tokens), make({6, 2}, 2, tokens)});
    expect_gradients([&](const Tensors& x) { return Tensors{combine(x[0], p)}; },
                     {make({p.order.size(), 3}, 3, tokens)});
  }
}

// Experts 1 and 2 of three, on a rank that sees the tokens of all.
struct OfOneRank : Drops {
  const Label everywhere = expert(replicated, replicated, rows);
  const Tensor all = chosen.labelled(constant(everywhere));
  const Tensor index = Tensor::scalar(
      1, DType::i64, device, constant(expert(replicated, experts, replicated, replicated)));
};

TEST_F(OfOneRank, ItsChoicesAreSortedAndOthersLeftOut) {
  const Tensor own = choices_of(all, index, 1, 2);
  EXPECT_EQ(own.label()[Axis::ep], experts);
  EXPECT_EQ(own.to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{-1, 0, -1, 1, -1, 0, -1, 1, -1, 1, -1, 0}));
  const Plan p = plan_kept(own, 2, 6);
  EXPECT_EQ(p.counts.to_vector<std::int64_t>(), (std::vector<std::int64_t>{3, 3}));
  EXPECT_EQ(p.order.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 5, 11, 3, 7, 9}));
  const Plan padded = plan_kept(own, 2, 6, 4);
  EXPECT_EQ(padded.order.to_vector<std::int32_t>(),
            (std::vector<std::int32_t>{1, 5, 11, -1, 3, 7, 9, -1}));
}

TEST_F(OfOneRank, ItsSumsArePartialAndHaveTheGradientsOfFiniteDifferences) {
  const Plan p = plan_kept(choices_of(all, index, 1, 2), 2, 6);
  const Label there = expert(replicated, experts, rows);
  expect_gradients(
      [&](const Tensors& x) {
        const Permuted y = permute(x[0], x[1], p);
        EXPECT_EQ(y.x.label(), there);
        return Tensors{y.x, y.weights};
      },
      {make({6, 3}, 1, everywhere), make({6, 2}, 2, everywhere)});
  expect_gradients(
      [&](const Tensors& x) {
        const Tensor y = combine(x[0], p, axes::ep);
        EXPECT_EQ(y.label(), expert(replicated, partial, rows));
        return Tensors{y};
      },
      {make({6, 3}, 3, there)});
}

TEST_F(Drops, ABlockThatIsCutIsAnError) {
  expect_error(
      [&] {
        plan(chosen, weights, 3, {4, 1, false});
      },
      {"plan", "6 rows", "blocks of 4", "must not cut"});
  expect_error([&] { plan(chosen, {}, 3, {3, 1, false}); }, {"plan", "weights none"});
}

TEST_F(RoutingOp, PlanSortsChoicesByExpertAndKeepsTheirOrder) {
  const Plan p = plan(choices(), 6);
  using Numbers = std::vector<std::int32_t>;
  EXPECT_EQ(p.counts.to_vector<std::int64_t>(), (std::vector<std::int64_t>{3, 2, 2, 0, 3, 0}));
  EXPECT_EQ(p.order.to_vector<std::int32_t>(), (Numbers{0, 4, 8, 2, 9, 5, 6, 1, 3, 7}));
  EXPECT_EQ(p.place.to_vector<std::int32_t>(), (Numbers{0, 7, 3, 8, 1, 5, 6, 9, 2, 4}));
}

TEST_F(RoutingOp, PermuteHasTheGradientsOfFiniteDifferences) {
  const Plan p = plan(choices().labelled(constant(tokens)), 5);
  expect_gradients(
      [&](const Tensors& x) {
        const Permuted y = permute(x[0], x[1], p);
        return Tensors{y.x, y.weights};
      },
      {make({5, 3}, 1, tokens), make({5, 2}, 2, tokens)});
}

TEST_F(RoutingOp, PermuteHasThemTooWhereOneOfTheTwoIsAConstant) {
  const Plan p = plan(choices().labelled(constant(tokens)), 5);
  const Tensor x = make({5, 3}, 1, tokens), w = make({5, 2}, 2, tokens);
  expect_gradients([&](const Tensors& in) { return Tensors{permute(in[0], w.detached(), p).x}; },
                   {x});
  expect_gradients(
      [&](const Tensors& in) { return Tensors{permute(x.detached(), in[0], p).weights}; }, {w});
}

TEST_F(RoutingOp, CombineHasTheGradientsOfFiniteDifferences) {
  const Plan p = plan(choices().labelled(constant(tokens)), 5);
  expect_gradients([&](const Tensors& x) { return Tensors{combine(x[0], p)}; },
                   {make({10, 3}, 1, tokens)});
}

TEST_F(RoutingOp, CombineOfWhatPermuteMovedIsKTimesIt) {
  const Plan p = plan(choices(), 5);
  const Tensor x = make({5, 3}, 1);
  auto wanted = x.to_vector<double>();
  for (double& value : wanted) value *= 2;
  EXPECT_EQ(combine(permute(x, make({5, 2}, 2), p).x, p).to_vector<double>(), wanted);
}

TEST_F(RoutingOp, PermuteMovesRowsWithTheirWeights) {
  const Plan p = plan(choices(), 5);
  const Tensor x = make({5, 3}, 1), w = make({5, 2}, 2);
  const Permuted y = permute(x, w, p);
  const auto order = p.order.to_vector<std::int32_t>();
  for (std::int64_t r = 0; r < 10; ++r) {
    const std::int64_t token = order[std::size_t(r)] / 2;
    EXPECT_EQ(y.x.rows(r, r + 1).to_vector<double>(), x.rows(token, token + 1).to_vector<double>());
    EXPECT_EQ(y.weights.to_vector<double>()[std::size_t(r)],
              w.to_vector<double>()[std::size_t(order[std::size_t(r)])]);
  }
}

TEST_F(RoutingOp, PermuteAndCombineOfOtherSizesAreErrorsThatNameThem) {
  const Plan p = plan(choices(), 5);
  expect_error([&] { permute(make({6, 3}, 1), make({5, 2}, 2), p); }, {"permute", "[6, 3]", "10"});
  expect_error([&] { permute(make({5, 3}, 1), make({5, 3}, 2), p); }, {"permute", "[5, 3]"});
  expect_error([&] { combine(make({5, 3}, 1), p); }, {"combine", "[5, 3]", "10 choices"});
  const Plan of_tokens = plan(choices().labelled(constant(tokens)), 5);
  expect_error(
      [&] {
        combine(make({10, 3}, 1, dense(partial, rows, rows)), of_tokens);
      },
      {"combine", "partial on share", "reduce_scatter()"});
  expect_error([&] { plan(make({5, 2}, 1), 5); }, {"plan", "f64", "i32"});
}

TEST_F(RoutingOp, CountChoicesCountsValidTokensBySegmentAndExpert) {
  const Tensor mask = tensor_of<double>({1, 1, 0, 1, 1}, {5}, device);
  const Tensor segment = ids_of({0, 1, 0, 1, 0}, device);
  const Axes all = axes::tp * axes::cp;
  EXPECT_EQ(count_choices(choices(), mask, {}, 1, 5, all).to_vector<double>(),
            (std::vector<double>{2, 2, 1, 0, 3}));
  EXPECT_EQ(count_choices(choices(), mask, segment, 2, 5, all).to_vector<double>(),
            (std::vector<double>{2, 1, 0, 0, 1, 0, 1, 1, 0, 2}));
}

TEST_F(RoutingOp, CountsOfCutTokensArePartialConstants) {
  const Label cut = constant(tokens);
  const Tensor mask = make({5}, 1).labelled(cut), chosen = choices().labelled(cut);
  const Label found = count_choices(chosen, mask, {}, 1, 5, axes::tp * axes::cp).label();
  EXPECT_EQ(found, constant(dense(partial, partial, rows)));
}

TEST_F(RoutingOp, SumOfChosenAddsUpWhatValidTokensChose) {
  const Tensor scores = make({5, 5}, 1), mask = tensor_of<double>({1, 1, 0, 1, 1}, {5}, device);
  const Tensor sums = sum_of_chosen(scores, choices(), mask, axes::tp * axes::cp);
  const std::vector<double> s = scores.to_vector<double>();
  std::vector<double> want(5);
  const std::vector<std::int32_t> chosen = choices().to_vector<std::int32_t>();
  for (const std::size_t t : {0, 1, 3, 4})
    for (const std::size_t j : {0, 1}) {
      const auto e = std::size_t(chosen[2 * t + j]);
      want[e] += s[5 * t + e];
    }
  for (std::size_t e = 0; e < 5; ++e) EXPECT_NEAR(sums.to_vector<double>()[e], want[e], 1e-14);
  EXPECT_EQ(sums.shape(), Shape({1, 5}));
}

TEST_F(RoutingOp, SumsOfChosenOfCutTokensArePartialConstants) {
  const Label cut = constant(tokens);
  const Label found = sum_of_chosen(make({5, 5}, 1).labelled(tokens), choices().labelled(cut),
                                    make({5}, 2).labelled(cut), axes::tp * axes::cp)
                          .label();
  EXPECT_EQ(found, constant(dense(partial, partial, rows)));
}

TEST_F(RoutingOp, SumOfChosenWithWrongOperandsIsAnErrorThatNamesThem) {
  const Axes all = axes::tp * axes::cp;
  expect_error(
      [&] {
        sum_of_chosen(make({4, 5}, 1), choices(), make({5}, 1), all);
      },
      {"sum_of_chosen", "[4, 5]", "[5, 2]"});
  expect_error(
      [&] {
        sum_of_chosen(make({5, 5}, 1), choices(), make({4}, 1), all);
      },
      {"sum_of_chosen", "mask", "[4]"});
}

TEST_F(RoutingOp, CountChoicesWithWrongOperandsIsAnErrorThatNamesThem) {
  const Axes all = axes::tp * axes::cp;
  expect_error([&] { count_choices(choices(), make({4}, 1), {}, 1, 5, all); },
               {"count_choices", "mask", "[4]"});
  expect_error([&] { count_choices(choices(), make({5}, 1, {}, DType::bf16), {}, 1, 5, all); },
               {"count_choices", "bf16"});
  expect_error([&] { count_choices(choices(), make({5}, 1), ids_of({0}, device), 1, 5, all); },
               {"count_choices", "segment", "[1]"});
}

}  // namespace
}  // namespace pf
