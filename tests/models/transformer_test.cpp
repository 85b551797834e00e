#include "models/transformer.h"

#include <gtest/gtest.h>

#include "tests/model.h"
#include "tests/models/reference.h"
#include "tests/models/slopes.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using Kind = config::Balance;

constexpr std::int64_t length = 5;
constexpr Kind::Kind kinds[] = {Kind::none, Kind::micro, Kind::sequence, Kind::global, Kind::mixed};

config::Model dense_model() {
  config::Model model = small_moe();
  model.clear_moe();
  return model;
}

config::Model every_second() {
  config::Model model = small_moe();
  model.mutable_moe()->set_every(2);
  return model;
}

config::Model other_router() {
  config::Model model = small_moe();
  model.mutable_moe()->set_router(config::Moe::top_k_softmax);
  model.mutable_moe()->set_shared_ffn(0);
  return model;
}

config::Model with_balance(config::Model model, Kind::Kind kind) {
  model.mutable_moe()->mutable_balance()->set_kind(kind);
  return model;
}

// One rank's step.
StepOutcome step(const Recipe& recipe, const Samples& samples) {
  StepOutcome out;
  in_ranks(1, [&](const Mesh& mesh) { out = SmallModel(recipe, mesh, length).step(samples); });
  return out;
}

// The losses alone.
StepOutcome step_of_reference(const Recipe& recipe, const reference::Weights& weights,
                              const Samples& samples) {
  const reference::Model model(recipe.model, weights);
  StepOutcome out;
  std::map<int, reference::Routes> routes;
  for (std::int64_t s = 0; s < samples.count; ++s) {
    const auto part = [&](const auto& all) {
      return std::vector<int>(all.begin() + s * length, all.begin() + (s + 1) * length);
    };
    const std::vector<int> mask = part(samples.mask);
    out.loss += model.sequence(part(samples.ids), part(samples.targets), {mask.begin(), mask.end()},
                               routes) /
                samples.tokens();
  }
  const config::Moe& moe = recipe.model.moe();
  for (const auto& [layer, of_layer] : routes) {
    out.balance_loss +=
        moe.balance().weight() * reference::balance_loss(moe.balance().kind(), of_layer,
                                                         std::size_t(recipe.micro_batch),
                                                         std::size_t(recipe.group));
    out.z_loss += moe.z_loss() * reference::z_loss(of_layer);
    Numbers& counts = out.expert_counts.emplace_back(std::size_t(moe.experts()));
    for (const reference::Route& route : joined(of_layer, 0, of_layer.size()))
      for (const int e : route.chosen) counts[std::size_t(e)] += route.counts;
  }
  return out;
}

void expect_like_the_reference(const Recipe& recipe) {
  const Samples samples = uneven_samples(8, length, recipe.model.vocabulary());
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    const StepOutcome got = model.step(samples);
    const StepOutcome want = step_of_reference(recipe, model.weights(), samples);
    EXPECT_NEAR(got.loss, want.loss, 1e-12);
    EXPECT_NEAR(got.balance_loss, want.balance_loss, 1e-12);
    EXPECT_NEAR(got.z_loss, want.z_loss, 1e-12);
    EXPECT_EQ(got.expert_counts, want.expert_counts);
  });
}

TEST(Transformer, ADenseModelsLossIsThatOfPlainLoops) {
  expect_like_the_reference({.model = dense_model(), .micro_batch = 2});
}

TEST(Transformer, AllLossesOfEachBalanceAreThoseOfPlainLoops) {
  for (const Kind::Kind kind : kinds)
    for (const config::Model& model : {small_moe(), every_second(), other_router()})
      for (const std::int64_t group : {1, 2, 3, 4})
        for (const std::int64_t micro_batch : {1, 2}) {
          SCOPED_TRACE(Kind::Kind_Name(kind) + " by " + std::to_string(group));
          expect_like_the_reference(
              {.model = with_balance(model, kind), .micro_batch = micro_batch, .group = group});
        }
}

TEST(Transformer, ADenseModelsGradientsAreItsSlopes) {
  expect_slopes(length, {.model = dense_model(), .micro_batch = 2});
}

TEST(Transformer, AMoeModelsGradientsAreItsSlopes) {
  expect_slopes(length, {.model = with_balance(small_moe(), Kind::micro), .micro_batch = 2});
}

TEST(Transformer, WithDenseLayersAmongItsLayersTheyAreToo) {
  expect_slopes(length, {.model = with_balance(every_second(), Kind::mixed), .group = 2});
}

TEST(Transformer, WithSoftmaxAfterTopKTheyAreToo) {
  expect_slopes(length, {.model = with_balance(other_router(), Kind::sequence)});
}

TEST(Transformer, WithGlobalBalanceTheyAreToo) {
  expect_slopes(length, {.model = with_balance(small_moe(), Kind::global), .group = 4});
  expect_slopes(length, {.model = with_balance(other_router(), Kind::global), .group = 1});
}

TEST(Transformer, TheGradientNormIsThatOfAllGradients) {
  const StepOutcome out = step({}, uneven_samples(4, length, 11));
  double squares = 0;
  for (const auto& [name, gradient] : out.gradients)
    for (const double x : gradient) squares += x * x;
  EXPECT_NEAR(out.norm, std::sqrt(squares), 1e-12 * out.norm);
}

TEST(Transformer, RecomputedLayersGiveTheSameBits) {
  const Samples samples = uneven_samples(4, length, 11);
  for (const Kind::Kind kind : kinds) {
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      Recipe recipe{.model = with_balance(small_moe(), kind), .type = type, .group = 2};
      recipe.model.set_dropout(0.2);
      const StepOutcome want = step(recipe, samples);
      for (const Recompute recompute : {Recompute{Recompute::selective}, Recompute{Recompute::full},
                                        Recompute{Recompute::full, 1}}) {
        recipe.recompute = recompute;
        EXPECT_EQ(step(recipe, samples), want) << Kind::Kind_Name(kind) << ' ' << name(type);
      }
    }
  }
}

TEST(Transformer, DeferredWeightGradientsAreTheSameBits) {
  const Samples samples = uneven_samples(4, length, 11);
  for (const auto recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
    Recipe recipe{.recompute = {recompute}};
    const StepOutcome want = step(recipe, samples);
    recipe.schedule = ScheduleKind::zero_bubble_h1;
    EXPECT_EQ(step(recipe, samples), want);
  }
}

// Sums over rows are cut elsewhere: the same up to rounding.
TEST(Transformer, ChunksOfTheHeadAndMicroBatchesDoNotMatter) {
  const Samples samples = uneven_samples(4, length, 11);
  const Recipe recipe{.model = with_balance(small_moe(), Kind::sequence), .micro_batch = 4};
  const StepOutcome want = step(recipe, samples);
  for (const std::int64_t chunk : {1, 3, 7, 20}) {
    Recipe chunked = recipe;
    chunked.head_chunk = chunk;
    EXPECT_LT(distance(want, step(chunked, samples)), 1e-12) << chunk;
  }
  for (const std::int64_t micro_batch : {1, 2}) {
    Recipe cut = recipe;
    cut.micro_batch = micro_batch;
    EXPECT_LT(distance(want, step(cut, samples)), 1e-12) << micro_batch;
  }
}

TEST(Transformer, DropoutDropsInTrainingAloneAndOtherwiseInEachStep) {
  Recipe recipe{.model = small_moe()};
  recipe.model.set_dropout(0.3);
  const Samples samples = uneven_samples(4, length, 11);
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    const StepOutcome first = model.step(samples, 0);
    EXPECT_EQ(model.step(samples, 0), first);
    EXPECT_NE(model.step(samples, 1).loss, first.loss);
  });
}

TEST(Transformer, LastLogitsAreThoseThatTheLossIsOf) {
  const Samples samples = even_samples(2, length, 11);
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel model({}, mesh, length);
    Context context;
    context.mesh = &mesh;
    context.type = DType::f64;
    context.batch =
        make_batch(mesh, {.count = 2, .ids = samples.ids, .targets = samples.targets}, DType::f64);
    // Only the last token of each sequence counts.
    for (std::int64_t t = 0; t < 2 * length; ++t)
      if (t % length != length - 1) context.batch.mask.data<double>()[t] = 0;
    Layers& layers = model.transformer().layers();
    Gradients none(mesh, {});
    Stage stage(layers, none);
    stage.evaluate(context, {0, layers.size()}, {});
    const double loss = loss_over_mesh(mesh, context.statistics);
    context.wants_logits = true;
    const auto logits = logits_of_token(mesh, stage.evaluate(context, {0, layers.size()}, {}),
                                        context.batch, length - 1, 11);
    double want = 0;
    for (std::size_t s = 0; s < 2; ++s) {
      const auto target = samples.targets[(s + 1) * std::size_t(length) - 1];
      want += reference::log_sum_exp(logits[s]) - logits[s][std::size_t(target)];
    }
    EXPECT_NEAR(loss, want, 1e-12);
  });
}

}  // namespace
}  // namespace pf
