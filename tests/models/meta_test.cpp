// A step without numbers has the shapes, the bytes and the traffic of one with them.
#include <gtest/gtest.h>

#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 7;

struct Cost {
  Memory memory;
  std::vector<std::string> outputs;
  std::vector<Traffic> traffic;
};

Cost cost_of(const Recipe& recipe, const Samples& samples, const Mesh& mesh) {
  mesh.device().restart_peak();
  SmallModel model(recipe, mesh, length);
  model.step(samples, 0);
  model.step(samples, 1);
  return {mesh.device().memory(), model.outputs(), mesh.communicator().traffic()};
}

// Of one rank, when the others are not there.
Cost checked_cost(const Recipe& recipe, const Samples& samples, int rank = 0,
                  const Layout& layout = {}) {
  Device device(make_meta_backend(make_cpu_backend(1)));
  FakeCommunicator communicator(rank, layout.ranks());
  std::vector<int> all(std::size_t(layout.ranks()), 0);
  std::iota(all.begin(), all.end(), 0);
  const Mesh mesh(communicator, device, layout, all);
  return cost_of(recipe, samples, mesh);
}

// All experts are chosen: routing is balanced on every machine.
Recipe balanced(config::Balance::Kind kind, DType type) {
  Recipe recipe{.model = small_moe(kind), .type = type, .micro_batch = 2, .group = 4};
  recipe.model.mutable_moe()->set_top_k(4);
  return recipe;
}

void expect_the_same(const Recipe& recipe, const Layout& layout = {},
                     std::int64_t tokens = length) {
  const Samples samples = even_samples(16, tokens, recipe.model.vocabulary());
  in_ranks(layout, [&](const Mesh& mesh) {
    const Cost real = cost_of(recipe, samples, mesh);
    const Cost checked = checked_cost(recipe, samples, mesh.rank(), layout);
    EXPECT_EQ(checked.outputs, real.outputs);
    EXPECT_GT(real.memory.peak, real.memory.live);
    EXPECT_EQ(checked.memory.peak, real.memory.peak);
    EXPECT_EQ(checked.memory.live, real.memory.live);
    EXPECT_EQ(real.traffic.empty(), layout.ranks() == 1);
    ASSERT_EQ(checked.traffic.size(), real.traffic.size());
    for (std::size_t i = 0; i < real.traffic.size(); ++i)
      EXPECT_EQ(checked.traffic[i], real.traffic[i])
          << real.traffic[i].kind << ' ' << real.traffic[i].axes << ": " << checked.traffic[i].bytes
          << " bytes in " << checked.traffic[i].calls << " calls, really " << real.traffic[i].bytes
          << " in " << real.traffic[i].calls;
  });
}

TEST(Meta, AStepHasTheShapesAndThePeakOfTheRealOne) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    for (const auto kind : {config::Balance::none, config::Balance::micro,
                            config::Balance::sequence, config::Balance::mixed}) {
      SCOPED_TRACE(name(type) + (' ' + config::Balance::Kind_Name(kind)));
      expect_the_same(balanced(kind, type));
    }
  }
}

TEST(Meta, ARecomputedAndADeferredOneToo) {
  Recipe recipe = balanced(config::Balance::mixed, DType::bf16);
  recipe.head_chunk = 5;
  for (const auto recompute : {Recompute::selective, Recompute::full})
    for (const auto schedule : {ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble_h1}) {
      recipe.recompute = {recompute};
      recipe.schedule = schedule;
      expect_the_same(recipe);
    }
}

TEST(Meta, OneOfFourReplicasToo) {
  for (const auto kind : {config::Balance::micro, config::Balance::global})
    expect_the_same(balanced(kind, DType::f32), {.dp = 4, .edp = 4});
}

TEST(Meta, EachRankOfAFoldedLayoutToo) {
  Recipe recipe = balanced(config::Balance::mixed, DType::bf16);
  recipe.model.set_window(3);
  for (const Layout& layout :
       {Layout{.share = 2, .edp = 2}, Layout{.cp = 2, .etp = 2}, Layout{.dp = 2, .ep = 2},
        Layout{.share = 2, .cp = 2, .dp = 2, .etp = 2, .ep = 4}})
    expect_the_same(recipe, layout, 8);
}

TEST(Meta, EachStageOfAPipelineToo) {
  Recipe recipe = balanced(config::Balance::global, DType::bf16);
  recipe.group = 2;
  recipe.model.set_tied(true);
  for (const ScheduleKind kind : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                  ScheduleKind::zero_bubble_h1, ScheduleKind::interleaved}) {
    SCOPED_TRACE(name(kind));
    recipe.schedule = kind;
    recipe.chunks = kind == ScheduleKind::interleaved ? 2 : 1;
    expect_the_same(recipe, {.kv = 1, .dp = 2, .ep = 2, .pp = 2}, 8);
  }
}

TEST(Meta, EachRankToWhichKeysComeInAnyWayToo) {
  Recipe recipe = balanced(config::Balance::mixed, DType::bf16);
  recipe.model.set_heads(4);
  recipe.model.set_kv_heads(2);
  for (const CpMethod method : {CpMethod::ring, CpMethod::ulysses, CpMethod::two_level}) {
    SCOPED_TRACE(int(method));
    recipe.cp_method = method;
    expect_the_same(recipe, {.cp = 4, .edp = 4}, 16);
  }
}

TEST(Meta, EachRankThatSeesAllTokensToo) {
  Recipe recipe = balanced(config::Balance::mixed, DType::bf16);
  recipe.dispatcher = Dispatcher::all_gather;
  for (const Layout& layout :
       {Layout{.dp = 4, .ep = 4}, Layout{.dp = 4, .etp = 2, .ep = 2}, Layout{.cp = 2, .etp = 2}})
    expect_the_same(recipe, layout, 8);
}

TEST(Meta, ReplicasThatDivideGradientsOrWeightsToo) {
  for (const Divided divided : {Divided::states, Divided::gradients, Divided::weights})
    for (const int sharing : {0, 2}) {
      Recipe recipe = balanced(config::Balance::mixed, DType::bf16);
      recipe.sharing.ranks = sharing;
      recipe.sharing.divided = divided;
      recipe.recompute = {Recompute::full};
      expect_the_same(recipe, {.dp = 4, .ep = 2, .edp = 2});
    }
}

TEST(Meta, UnevenRoutingIsCountedAsBalanced) {
  Recipe recipe = balanced(config::Balance::micro, DType::f64);
  recipe.model.mutable_moe()->set_top_k(1);
  recipe.model.mutable_moe()->set_experts(3);
  const Samples samples = even_samples(16, length, recipe.model.vocabulary());
  EXPECT_GT(checked_cost(recipe, samples).memory.peak, 0u);
}

// Of a model whose layers are what counts.
std::size_t peak(const config::Model& model, const Recompute& recompute) {
  Recipe recipe = balanced(config::Balance::micro, DType::bf16);
  recipe.model = model;
  recipe.group = 1;
  recipe.recompute = recompute;
  Device device(make_meta_backend(make_cpu_backend(1)));
  FakeCommunicator alone(0, 1);
  const Mesh mesh(alone, device);
  SmallModel trained(recipe, mesh, 64);
  const Samples samples = even_samples(4, 64, recipe.model.vocabulary());
  trained.step(samples, 0);
  const std::size_t kept = device.memory().live;
  device.restart_peak();
  trained.step(samples, 1);
  return device.memory().peak - kept;
}

config::Model deep_model() {
  config::Model model = small_moe();
  model.set_layers(12);
  model.set_hidden(32);
  model.set_heads(4);
  model.set_kv_heads(4);
  model.set_head_dim(8);
  model.mutable_moe()->set_top_k(4);
  model.mutable_moe()->set_ffn(64);
  model.mutable_moe()->set_shared_ffn(64);
  return model;
}

TEST(Meta, EachRecomputeNeedsLessMemoryThanTheOneBefore) {
  config::Model moe = deep_model(), dense = moe, plain = moe, latent = moe;
  dense.clear_moe();
  dense.set_ffn(128);
  plain = dense;
  plain.set_activation(config::Model::gelu);
  config::Mla& mla = *latent.mutable_mla();
  mla.set_kv_rank(5);
  mla.set_nope_dim(6);
  mla.set_rope_dim(4);
  mla.set_value_dim(6);
  for (const config::Model& model : {moe, dense, plain, latent}) {
    const std::size_t none = peak(model, {}), selective = peak(model, {Recompute::selective}),
                      full = peak(model, {Recompute::full});
    EXPECT_LT(double(selective), 0.95 * double(none)) << model.DebugString();
    EXPECT_LT(double(full), 0.65 * double(selective));  // workspaces are large without AVX-512
    EXPECT_LT(peak(model, {Recompute::selective, 6}), none);
    EXPECT_GT(peak(model, {Recompute::selective, 6}), selective);
    EXPECT_EQ(peak(model, {Recompute::full, 12}), full);
  }
}

// Of each layer and token: the outputs of two norms, one of them once more in f32 for the router,
// and what is sent to 4 experts. At the peak, in the last layer's experts, its norm and what they
// were sent have been made again.
TEST(Meta, SelectiveRecomputeSavesWhatItSays) {
  constexpr std::size_t tokens = 2 * 64, layers = 12, norm = 32 * 2, wide = 32 * 4, sent = 4 * norm;
  const std::size_t saved = peak(deep_model(), {}) - peak(deep_model(), {Recompute::selective});
  EXPECT_EQ(saved, tokens * (layers * (2 * norm + wide + sent) - (norm + sent)));
}

}  // namespace
}  // namespace pf
