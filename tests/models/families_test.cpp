// Every architecture that a configuration can name: its gradients are its slopes, a recompute gives
// the same bits, and meta allocates what the CPU does.
#include <gtest/gtest.h>

#include <functional>

#include "tests/models/slopes.h"

namespace pf {
namespace {

constexpr std::int64_t length = 5;

struct Family {
  const char* name;
  std::function<void(config::Model&)> change;  // of small_moe()
};

void learn_positions(config::Model& model) {
  model.set_position(config::Model::learned);
  model.set_max_positions(length);
}

void use_latent_attention(config::Model& model, std::int64_t q_rank) {
  config::Mla& mla = *model.mutable_mla();
  mla.set_q_rank(q_rank);
  mla.set_kv_rank(5);
  mla.set_nope_dim(3);
  mla.set_rope_dim(4);
  mla.set_value_dim(2);
}

void stretch(config::Model& model, config::RopeScaling::Kind kind) {
  config::RopeScaling& scaling = *model.mutable_rope_scaling();
  scaling.set_kind(kind);
  scaling.set_factor(4);
  scaling.set_original_positions(3);
  scaling.set_slow(0.1);
  scaling.set_fast(0.4);
}

const Family families[] = {
    {"GPT-2",
     [](config::Model& model) {
       model.clear_moe();
       model.set_norm(config::Model::layer);
       model.set_activation(config::Model::gelu_tanh);
       model.set_qkv_bias(true);
       model.set_out_bias(true);
       model.set_mlp_bias(true);
       model.set_tied(true);
       learn_positions(model);
     }},
    {"OPT",
     [](config::Model& model) {
       model.clear_moe();
       model.set_norm(config::Model::layer);
       model.set_activation(config::Model::relu);
       model.set_qkv_bias(true);
       model.set_mlp_bias(true);
       learn_positions(model);
       model.set_position_offset(2);
     }},
    {"GELU with rotary positions and two windows",
     [](config::Model& model) {
       model.clear_moe();
       model.set_activation(config::Model::gelu);
       model.set_window(2);
       model.set_full_attention_every(2);
     }},
    {"Qwen2-MoE",
     [](config::Model& model) {
       model.set_qkv_bias(true);
       model.mutable_moe()->set_shared_gate(true);
     }},
    {"Qwen3-MoE",
     [](config::Model& model) {
       model.set_qk_norm(true);
       model.mutable_moe()->set_router(config::Moe::top_k_softmax);
       model.mutable_moe()->clear_shared_ffn();
       stretch(model, config::RopeScaling::yarn);
     }},
    {"DeepSeek-V3",
     [](config::Model& model) {
       use_latent_attention(model, 6);
       config::Moe& moe = *model.mutable_moe();
       moe.set_first_dense(1);
       moe.set_router(config::Moe::sigmoid_top_k);
       moe.set_groups(2);
       moe.set_top_groups(1);
       moe.set_group_best(2);
       moe.set_routed_scale(2.5);
       moe.set_bias_rate(0.001);
       stretch(model, config::RopeScaling::llama3);
     }},
    {"DeepSeek-V2 with a window",
     [](config::Model& model) {
       use_latent_attention(model, 0);
       model.set_window(3);
       model.mutable_moe()->set_groups(4);
       model.mutable_moe()->set_top_groups(3);
       model.mutable_moe()->set_routed_scale(16);
     }},
    {"sigmoid of one expert",
     [](config::Model& model) {
       model.mutable_moe()->set_router(config::Moe::sigmoid_top_k);
       model.mutable_moe()->set_top_k(1);
     }},
    {"dropped beyond capacity",
     [](config::Model& model) {
       config::Capacity& capacity = *model.mutable_moe()->mutable_capacity();
       capacity.set_factor(0.6);
       capacity.set_block(length);
     }},
    {"padded to capacity",
     [](config::Model& model) {
       config::Capacity& capacity = *model.mutable_moe()->mutable_capacity();
       capacity.set_factor(0.9);
       capacity.set_block(1);
       capacity.set_pad(true);
     }},
    {"forced balance",
     [](config::Model& model) { model.mutable_moe()->set_router(config::Moe::forced); }},
};

// None of its steps is a choice near a tie.
Recipe recipe_of(const Family& family, config::Balance::Kind kind = config::Balance::sequence) {
  Recipe recipe{.model = small_moe(kind), .micro_batch = 2};
  family.change(recipe.model);
  return recipe;
}

TEST(Families, GradientsAreSlopes) {
  for (const Family& family : families) {
    SCOPED_TRACE(family.name);
    expect_slopes(length, recipe_of(family));
  }
}

TEST(Families, RecomputedAndDeferredWorkGivesTheSameBits) {
  const Samples samples = uneven_samples(4, length, 11);
  for (const Family& family : families)
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      Recipe recipe = recipe_of(family);
      recipe.type = type;
      recipe.model.set_dropout(0.2);
      const auto step = [&] {
        StepOutcome out;
        in_ranks(1,
                 [&](const Mesh& mesh) { out = SmallModel(recipe, mesh, length).step(samples); });
        return out;
      };
      const StepOutcome want = step();
      EXPECT_TRUE(std::isfinite(want.sum())) << family.name;
      for (const auto recompute : {Recompute::selective, Recompute::full})
        for (const auto schedule : {ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble_h1}) {
          recipe.recompute = {recompute};
          recipe.schedule = schedule;
          EXPECT_EQ(step(), want) << family.name << ' ' << name(type) << ' ' << int(recompute);
        }
    }
}

TEST(Families, TwoReplicasEqualOneRank) {
  const Samples samples = uneven_samples(8, length, 11);
  for (const Family& family : families) {
    Recipe recipe = recipe_of(family, config::Balance::global);
    recipe.group = 2;
    StepOutcome one, two;
    in_ranks(1, [&](const Mesh& mesh) { one = SmallModel(recipe, mesh, length).step(samples); });
    in_ranks(2, [&](const Mesh& mesh) {
      const StepOutcome out = SmallModel(recipe, mesh, length).step(samples);
      if (mesh.coordinate(axes::dp) == 0) two = out;
    });
    EXPECT_LT(distance(one, two), 1e-12) << family.name;
  }
}

TEST(Families, ForcedChoicesAreEven) {
  Recipe recipe = recipe_of(families[std::size(families) - 1]);
  in_ranks(1, [&](const Mesh& mesh) {
    const StepOutcome out = SmallModel(recipe, mesh, 8).step(even_samples(4, 8, 11));
    for (const Numbers& counts : out.expert_counts) EXPECT_EQ(counts, Numbers(4, 16));
  });
}

TEST(Families, TheBiasOfTheRouterRisesWhereChoicesAreFew) {
  Recipe recipe = recipe_of(families[5]);
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    model.transformer().update_biases({{5, 1, 3, 3}});
    model.transformer().update_biases({{5, 1, 2, 4}});
    const Numbers bias = elements(model.parameter("layers.1.moe.router.bias").value());
    EXPECT_EQ(bias, (Numbers{-0.002, 0.002, 0.001, -0.001}));
    EXPECT_THROW(model.transformer().update_biases({}), Error);
  });
}

TEST(Families, ATiedHeadHasTheGradientOfBothUses) {
  Recipe recipe = recipe_of(families[0]);
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    const StepOutcome out = model.step(uneven_samples(4, length, 11));
    EXPECT_EQ(out.gradients.count("head"), 0u);
    EXPECT_EQ(out.gradients.at("embedding").size(), 11u * 8u);
  });
}

}  // namespace
}  // namespace pf
