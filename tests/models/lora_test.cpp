// Models of which only low-rank changes are trained.
#include <gtest/gtest.h>

#include "tests/models/slopes.h"

namespace pf {
namespace {

constexpr std::int64_t length = 5;

struct Form {
  const char* name;
  std::vector<std::string> adapted;
  void (*change)(config::Model&);
};

void use_latent_attention(config::Model& model) {
  config::Mla& mla = *model.mutable_mla();
  mla.set_q_rank(6);
  mla.set_kv_rank(5);
  mla.set_nope_dim(3);
  mla.set_rope_dim(4);
  mla.set_value_dim(2);
}

const Form forms[] = {
    {"queries and values", {"attention.q", "attention.v"}, [](config::Model&) {}},
    {"attention",
     {"attention.q", "attention.k", "attention.v", "attention.out"},
     [](config::Model& model) { model.set_qkv_bias(true); }},
    {"SwiGLU", {"mlp.gate", "mlp.down"}, [](config::Model& model) { model.clear_moe(); }},
    {"plain MLP",
     {"mlp.up", "mlp.down"},
     [](config::Model& model) {
       model.clear_moe();
       model.set_activation(config::Model::gelu);
       model.set_mlp_bias(true);
       model.set_tied(true);
     }},
    {"experts", {"experts.gate", "experts.up", "experts.down"}, [](config::Model&) {}},
    {"router, shared expert and head",
     {"moe.router", "shared.up", "shared.down", "head"},
     [](config::Model&) {}},
    {"latent attention",
     {"q.down", "kv.down", "k.rope", "q.nope", "q.rope", "k.nope", "attention.v", "attention.out"},
     use_latent_attention},
    {"the last layer alone",
     {"layers.1.attention.q", "layers.1.moe.experts.up"},
     [](config::Model&) {}},
};

Recipe recipe_of(const Form& form, config::Balance::Kind kind = config::Balance::sequence) {
  Recipe recipe{
      .model = small_moe(kind), .micro_batch = 2, .adapted = {.names = form.adapted, .b_std = 0.3}};
  form.change(recipe.model);
  return recipe;
}

StepOutcome step(const Recipe& recipe, int ranks, const Samples& samples) {
  StepOutcome out;
  in_ranks(ranks, [&](const Mesh& mesh) {
    const StepOutcome mine = SmallModel(recipe, mesh, length).step(samples);
    if (mesh.rank() == ranks - 1) out = mine;
  });
  return out;
}

TEST(Lora, GradientsAreSlopes) {
  for (const Form& form : forms) {
    SCOPED_TRACE(form.name);
    expect_slopes(length, recipe_of(form));
  }
}

TEST(Lora, OnlyAAndBHaveGradients) {
  const Samples samples = uneven_samples(4, length, 11);
  for (const Form& form : forms) {
    in_ranks(1, [&](const Mesh& mesh) {
      SmallModel model(recipe_of(form), mesh, length);
      const StepOutcome out = model.step(samples);
      std::size_t adapters = 0;
      model.transformer().visit({.parameter = [&](Parameter& w) {
        adapters += w.adapter() != nullptr ? 2 : 0;
        const bool is_change = w.name().ends_with(".lora.a") || w.name().ends_with(".lora.b");
        EXPECT_EQ(w.has_gradient(), is_change) << form.name << ' ' << w.name();
      }});
      EXPECT_EQ(out.gradients.size(), adapters);
      EXPECT_GE(adapters, form.adapted.size() * 2);
    });
  }
}

TEST(Lora, RecomputedAndDeferredWorkGivesTheSameBits) {
  const Samples samples = uneven_samples(4, length, 11);
  for (const Form& form : forms)
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      Recipe recipe = recipe_of(form);
      recipe.type = type;
      recipe.model.set_dropout(0.2);
      const StepOutcome want = step(recipe, 1, samples);
      EXPECT_TRUE(std::isfinite(want.sum()) && want.norm > 0) << form.name;
      for (const auto recompute : {Recompute::selective, Recompute::full}) {
        recipe.recompute = {recompute};
        EXPECT_EQ(step(recipe, 1, samples), want) << form.name << ' ' << name(type);
      }
      recipe.schedule = ScheduleKind::zero_bubble_h1;
      EXPECT_EQ(step(recipe, 1, samples), want) << form.name << ' ' << name(type);
    }
}

TEST(Lora, ReplicasEqualOneRank) {
  const Samples samples = uneven_samples(8, length, 11);
  for (const Form& form : forms) {
    Recipe recipe = recipe_of(form, config::Balance::global);
    recipe.group = 4;
    const StepOutcome want = step(recipe, 1, samples);
    for (const int ranks : {2, 4})
      EXPECT_LT(distance(want, step(recipe, ranks, samples)), 1e-12) << form.name << ' ' << ranks;
  }
}

TEST(Lora, AChangeOfZerosLeavesTheModelItsBits) {
  const Samples samples = uneven_samples(4, length, 11);
  for (const Form& form : forms)
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      Recipe recipe = recipe_of(form);
      recipe.type = type;
      recipe.adapted.b_std = 0;
      const StepOutcome with = step(recipe, 1, samples);
      recipe.adapted = {};
      const StepOutcome without = step(recipe, 1, samples);
      EXPECT_EQ(with.loss, without.loss) << form.name << ' ' << name(type);
      EXPECT_EQ(with.balance_loss, without.balance_loss) << form.name << ' ' << name(type);
    }
}

// Logits of a few tokens.
Numbers logits(SmallModel& model, const Recipe& recipe, const Mesh& mesh) {
  const Samples samples = uneven_samples(2, length, 11);
  Context context;
  context.mesh = &mesh;
  context.type = recipe.type;
  context.wants_logits = true;
  context.batch =
      make_batch(mesh, {.count = 2, .ids = samples.ids, .targets = samples.targets}, recipe.type);
  Gradients none(mesh, {});
  Layers& layers = model.transformer().layers();
  return elements(Stage(layers, none).evaluate(context, {0, layers.size()}, {}));
}

TEST(Lora, MergingLeavesLogitsTheirBits) {
  for (const Form& form : forms)
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      Recipe recipe = recipe_of(form);
      recipe.type = type;
      in_ranks(1, [&](const Mesh& mesh) {
        SmallModel model(recipe, mesh, length);
        const auto weights = model.weights();
        const Numbers before = logits(model, recipe, mesh);
        model.transformer().merge_adapters();
        EXPECT_EQ(logits(model, recipe, mesh), before) << form.name << ' ' << name(type);
        const auto merged = model.weights();
        EXPECT_LT(merged.size(), weights.size()) << form.name;
        for (const auto& [name, value] : merged)
          EXPECT_EQ(value != weights.at(name), weights.count(name + ".lora.a") > 0) << name;
      });
    }
}

TEST(Lora, WhatNothingTrainedComesBeforeIsNotUndone) {
  constexpr std::int64_t longer = 64;
  const Samples samples = even_samples(4, longer, 11);
  const auto peak = [&](const char* layer) {
    Recipe recipe{.micro_batch = 4};
    recipe.model.clear_moe();
    recipe.model.set_hidden(64);
    recipe.model.set_layers(6);
    recipe.adapted.names = {std::string(layer) + ".attention.q"};
    std::size_t out = 0;
    in_ranks(1, [&](const Mesh& mesh) {
      SmallModel model(recipe, mesh, longer);
      mesh.device().restart_peak();
      const std::size_t before = mesh.device().memory().live;
      model.step(samples);
      out = mesh.device().memory().peak - before;
    });
    return out;
  };
  EXPECT_LT(peak("layers.5"), peak("layers.0") / 2);
}

TEST(ModelSize, CountsWhatIsTrained) {
  config::Model model = small_moe();
  model.clear_moe();
  model.set_layers(1);
  const ModelSize all = model_size(model, 100);
  EXPECT_EQ(all.trained_parameters, all.parameters);
  const ModelSize some = model_size(model, 100, [](Transformer& transformer) {
    std::vector<Parameter*> parameters;
    transformer.visit({.parameter = [&](Parameter& w) { parameters.push_back(&w); }});
    for (Parameter* w : parameters) {
      w->freeze();
      if (w->name() == "layers.0.attention.k") w->adapt(2, 1);
    }
  });
  EXPECT_EQ(some.trained_parameters, 2 * 8 + 4 * 2);
  EXPECT_EQ(some.parameters, all.parameters + 2 * 8 + 4 * 2);
  const double weights = 8 * 8 + 4 * 8 + 4 * 8 + 8 * 8 + 3 * 8 * 10 + 11 * 8;
  EXPECT_EQ(all.flops_per_token - some.flops_per_token, 2 * weights - 4 * 24);
}

}  // namespace
}  // namespace pf
