// A model in stages, on one rank or several, is the same model.
#include "models/pipeline.h"

#include <gtest/gtest.h>

#include "models/metrics.h"
#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 6;

Recipe six_layers() {
  Recipe recipe;
  recipe.model.set_layers(6);
  return recipe;
}

// The last micro-batch is shorter.
Samples seven() {
  return uneven_samples(7, length, 11);
}

StepOutcome step_of(const Recipe& recipe, int pp, const Samples& samples = seven()) {
  StepOutcome out;
  in_ranks({.pp = pp}, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    const StepOutcome found = model.step(samples);
    if (mesh.rank() == 0) out = found;
  });
  return out;
}

// Of all but what is added up over stages.
void expect_the_bits(const StepOutcome& found, const StepOutcome& want, const std::string& name) {
  EXPECT_NEAR(found.norm, want.norm, 1e-14 * want.norm) << name;
  EXPECT_NEAR(found.balance_loss, want.balance_loss, 1e-14 * want.balance_loss) << name;
  EXPECT_NEAR(found.z_loss, want.z_loss, 1e-14 * want.z_loss) << name;
  EXPECT_EQ(found.loss, want.loss) << name;
  EXPECT_TRUE(found.expert_counts == want.expert_counts) << name;
  EXPECT_TRUE(found.gradients == want.gradients) << name;
}

// Sums are made in the order of micro-batches, whatever the schedule.
TEST(Pipeline, EveryScheduleGivesTheBitsOfOneStage) {
  Recipe recipe = six_layers();
  recipe.micro_batch = 2;
  const StepOutcome want = step_of(recipe, 1);
  EXPECT_GT(want.gradients.size(), 40U);
  struct Way {
    ScheduleKind kind;
    int pp, chunks;
  };
  for (const Way& way : {Way{ScheduleKind::gpipe, 3, 1}, Way{ScheduleKind::one_f_one_b, 2, 1},
                         Way{ScheduleKind::one_f_one_b, 4, 1}, Way{ScheduleKind::one_f_one_b, 8, 1},
                         Way{ScheduleKind::interleaved, 2, 2}, Way{ScheduleKind::interleaved, 4, 2},
                         Way{ScheduleKind::interleaved, 1, 3}, Way{ScheduleKind::interleaved, 2, 4},
                         Way{ScheduleKind::zero_bubble_h1, 3, 1}}) {
    recipe.schedule = way.kind;
    recipe.chunks = way.chunks;
    const std::string name = std::string(pf::name(way.kind)) + " of " + std::to_string(way.pp) +
                             " x " + std::to_string(way.chunks);
    expect_the_bits(step_of(recipe, way.pp), want, name);
  }
}

TEST(Pipeline, TiedWeightsOnTwoStagesAreOneWeight) {
  Recipe recipe = six_layers();
  recipe.model.set_tied(true);
  const StepOutcome want = step_of(recipe, 1);
  for (const int pp : {2, 4}) {
    const Difference found = difference(want, step_of(recipe, pp));
    EXPECT_LT(found.distance, 1e-13) << found.where << " of pp " << pp;
  }
}

TEST(Pipeline, LayersAreDividedNearlyEvenlyOrAsGiven) {
  using Ranges = std::vector<LayerRange>;
  EXPECT_EQ(divide_layers(6, 2), (Ranges{{0, 3}, {3, 6}}));
  EXPECT_EQ(divide_layers(7, 3), (Ranges{{0, 3}, {3, 5}, {5, 7}}));
  EXPECT_EQ(divide_layers(8, 3), (Ranges{{0, 3}, {3, 5}, {5, 8}}));
  EXPECT_EQ(divide_layers(6, 3, {1, 4, 1}), (Ranges{{0, 1}, {1, 5}, {5, 6}}));
  expect_error([] { divide_layers(6, 3, {1, 4, 2}); }, {"3 of together 7", "3 of together 6"});
  expect_error([] { divide_layers(6, 2, {6, 0}); }, {"smallest of 0"});
  expect_error([] { divide_layers(6, 3, {3, 3}); }, {"found 2", "wanted 3"});
}

TEST(Pipeline, UnevenStagesAndOneWithoutABlockGiveTheBitsOfOneStage) {
  Recipe recipe = six_layers();
  const StepOutcome want = step_of(recipe, 1);
  for (const std::vector<std::int64_t>& layers :
       {std::vector<std::int64_t>{1, 6, 1}, {6, 1, 1}, {1, 1, 6}}) {
    recipe.stage_layers = layers;
    expect_the_bits(step_of(recipe, 3), want, "the first of " + std::to_string(layers[0]));
  }
}

TEST(Pipeline, MicroBatchesThatAreCountedTogetherGoForwardFirst) {
  const ScheduleShape shape{ScheduleKind::one_f_one_b, 2, 1, 6};
  EXPECT_EQ(in_flight(schedule_of_step(shape, 1), 1), 1);
  EXPECT_EQ(in_flight(schedule_of_step(shape, 3), 1), 3);
  EXPECT_EQ(in_flight(schedule_of_step(shape, 3), 0), 4);
  expect_error(
      [] {
        schedule_of_step({ScheduleKind::interleaved, 2, 2, 6}, 3);
      },
      {"3 micro-batches", "model.moe.balance.group", "interleaved", "1f1b"});
  EXPECT_NO_THROW(schedule_of_step({ScheduleKind::gpipe, 2, 1, 6}, 6));
}

// GPipe holds all micro-batches on each stage, 1F1B as many as there are stages below.
TEST(Pipeline, OneForwardOneBackwardHoldsLess) {
  const auto peaks = [](ScheduleKind kind) {
    Recipe recipe = six_layers();
    recipe.schedule = kind;
    std::vector<std::size_t> found(2);
    in_ranks({.pp = 2}, [&](const Mesh& mesh) {
      SmallModel model(recipe, mesh, 96);
      model.step(uneven_samples(16, 96, 11));
      found[std::size_t(mesh.rank())] = mesh.device().memory().peak - mesh.device().memory().live;
    });
    return found;
  };
  const auto all = peaks(ScheduleKind::gpipe), few = peaks(ScheduleKind::one_f_one_b);
  EXPECT_LT(3 * few[0], all[0]);
  EXPECT_LT(few[1], few[0]);
}

TEST(Pipeline, AStageMakesTheContextOfAMicroBatchOnce) {
  for (const ScheduleKind kind : {ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble_h1}) {
    Recipe recipe = six_layers();
    recipe.model.mutable_moe()->mutable_balance()->set_kind(config::Balance::none);
    recipe.schedule = kind;
    in_ranks({.pp = 2}, [&](const Mesh& mesh) {
      SmallModel model(recipe, mesh, length);
      const Samples samples = even_samples(1, length, 11);
      std::vector<std::int64_t> made;
      PipelineHooks hooks;
      hooks.prepare = [&](Context& context, std::int64_t n) {
        made.push_back(n);
        context.mesh = &mesh;
        context.type = DType::f64;
        context.batch = make_batch(
            mesh, {.count = 1, .ids = samples.ids, .targets = samples.targets}, DType::f64);
        context.micro_batch = n;
        context.targets = context.tokens = 3 * length;
        context.is_training = true;
      };
      model.gradients().clear();
      EXPECT_EQ(model.pipeline().run(3, hooks).size(), 3U);
      model.gradients().finish();
      EXPECT_EQ(made, (std::vector<std::int64_t>{0, 1, 2})) << name(kind);
    });
  }
}

TEST(Pipeline, EvaluatesThroughAllStages) {
  const auto loss = [](int pp, int chunks) {
    Recipe recipe = six_layers();
    recipe.chunks = chunks;
    if (chunks > 1) recipe.schedule = ScheduleKind::interleaved;
    double out = 0;
    in_ranks({.pp = pp}, [&](const Mesh& mesh) {
      SmallModel model(recipe, mesh, length);
      const Samples samples = even_samples(2, length, 11);
      double sum = 0;
      for (int round = 0; round < 3; ++round) {
        Context context;
        context.mesh = &mesh;
        context.type = DType::f64;
        context.batch = make_batch(
            mesh, {.count = 2, .ids = samples.ids, .targets = samples.targets}, DType::f64);
        EXPECT_FALSE(bool(model.pipeline().evaluate(context)));
        sum += loss_over_mesh(mesh, context.statistics);
        context.wants_logits = true;
        const auto logits = logits_of_token(mesh, model.pipeline().evaluate(context), context.batch,
                                            length - 1, 11);
        sum += logits.at(1).at(3);
      }
      if (mesh.rank() == 0) out = sum;
    });
    return out;
  };
  const double want = loss(1, 1);
  EXPECT_GT(want, 1);
  EXPECT_EQ(loss(2, 1), want);
  EXPECT_EQ(loss(2, 2), want);
  EXPECT_EQ(loss(1, 4), want);
  EXPECT_EQ(loss(8, 1), want);
}

}  // namespace
}  // namespace pf
