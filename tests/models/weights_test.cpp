#include "models/weights.h"

#include <gtest/gtest.h>

#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

// The models of bench/peer.
config::Model peer(bool is_moe) {
  config::Model model;
  model.set_vocabulary(256);
  model.set_layers(is_moe ? 4 : 6);
  model.set_hidden(256);
  model.set_heads(4);
  model.set_kv_heads(2);
  model.set_head_dim(64);
  if (!is_moe) {
    model.set_ffn(1024);
    return model;
  }
  config::Moe& moe = *model.mutable_moe();
  moe.set_experts(8);
  moe.set_top_k(2);
  moe.set_ffn(384);
  moe.set_shared_ffn(384);
  return model;
}

// Without values: sizes of what is visited.
std::int64_t visited(const config::Model& config) {
  std::int64_t sum = 0;
  in_ranks(1, [&](const Mesh& mesh) {
    Transformer model(config, {.positions = 4}, mesh);
    model.visit({.parameter = [&](Parameter& w) { sum += w.whole().size(); }});
  });
  return sum;
}

TEST(ModelSize, IsThePeersForThePeersModels) {
  EXPECT_EQ(model_size(peer(true), 256).parameters, 11'544'832);
  EXPECT_EQ(model_size(peer(false), 256).parameters, 6'032'640);
  EXPECT_EQ(visited(peer(true)), 11'544'832);
  EXPECT_EQ(visited(peer(false)), 6'032'640);
}

TEST(ModelSize, IsTheSumOfAllParametersForOthers) {
  config::Model model = small_moe();
  EXPECT_EQ(model_size(model, 5).parameters, visited(model));
  model.mutable_moe()->set_every(2);
  model.set_layers(5);
  EXPECT_EQ(model_size(model, 5).parameters, visited(model));
  model.mutable_moe()->set_shared_ffn(0);
  model.set_kv_heads(2);
  EXPECT_EQ(model_size(model, 5).parameters, visited(model));
  model.clear_moe();
  EXPECT_EQ(model_size(model, 5).parameters, visited(model));
}

TEST(ModelSize, ATokenUsesTopKOfTheExperts) {
  config::Model model = small_moe();
  const std::int64_t unused = 2 * (4 - 2) * 3 * 8 * 6;  // layers, experts, matrices, hidden, ffn
  ModelSize size = model_size(model, 5);
  EXPECT_EQ(size.parameters - size.active_parameters, unused);
  model.clear_moe();
  size = model_size(model, 5);
  EXPECT_EQ(size.parameters, size.active_parameters);
}

// One layer by hand: 6 FLOPs for each weight of q, k, v, out, gate, up, down and head; scores and
// sums take 2 x 2 x q FLOPs for each of half the sequence's keys, and twice that backwards.
TEST(ModelSize, FlopsAreThoseOfProductsAndOfHalfTheSquareOfAttention) {
  config::Model model = small_moe();
  model.clear_moe();
  model.set_layers(1);
  const double weights = 8 * 8 + 4 * 8 + 4 * 8 + 8 * 8 + 3 * 8 * 10 + 11 * 8;
  EXPECT_EQ(model_size(model, 100).flops_per_token, 6 * weights + 3 * 4 * 8 * 50);
}

TEST(Weights, OfDifferentNamesAreDifferentAndOfAnotherSeedToo) {
  in_ranks(1, [](const Mesh& mesh) {
    const auto first = SmallModel({.seed = 1}, mesh, 5).weights();
    const auto second = SmallModel({.seed = 2}, mesh, 5).weights();
    EXPECT_NE(first.at("layers.0.moe.experts.gate"), first.at("layers.0.moe.experts.up"));
    EXPECT_NE(first.at("layers.0.moe.experts.gate"), first.at("layers.1.moe.experts.gate"));
    EXPECT_NE(first.at("embedding"), second.at("embedding"));
    EXPECT_EQ(first.at("head.norm"), Numbers(8, 1));
  });
}

TEST(Weights, ThatEndAResidualBranchStartSmaller) {
  config::Model config = small_moe();
  config.set_hidden(64);
  config.set_layers(8);
  const auto std_of = [](const Numbers& xs) {
    double squares = 0;
    for (const double x : xs) squares += x * x / double(xs.size());
    return std::sqrt(squares);
  };
  in_ranks(1, [&](const Mesh& mesh) {
    const auto weights = SmallModel({.model = config}, mesh, 5).weights();
    // 512 numbers and more: the estimate is off by 3%.
    for (const char* name : {"attention.q", "moe.router", "moe.experts.up", "moe.shared.gate"})
      EXPECT_NEAR(std_of(weights.at(std::string("layers.3.") + name)), 0.5, 0.1) << name;
    for (const char* name : {"attention.out", "moe.experts.down", "moe.shared.down"})
      EXPECT_NEAR(std_of(weights.at(std::string("layers.3.") + name)), 0.125, 0.02) << name;
  });
}

TEST(Weights, AreVisitedBeforeTheirPacksAndEachOnce) {
  in_ranks(1, [](const Mesh& mesh) {
    SmallModel model({}, mesh, 5);
    std::map<std::string, int> seen;
    model.transformer().visit({.parameter = [&](Parameter& w) { ++seen[w.name()]; },
                               .pack =
                                   [&](Pack& pack) {
                                     for (const Parameter* w : pack.parts())
                                       EXPECT_EQ(seen[w->name()], 1) << pack.name();
                                   }});
    for (const auto& [name, times] : seen) EXPECT_EQ(times, 1) << name;
  });
}

TEST(Batch, NumbersItsTokens) {
  in_ranks(1, [](const Mesh& mesh) {
    const std::vector<std::int32_t> ids{5, 6, 7, 8}, targets{6, 7, 8, 9};
    const Batch batch = make_batch(
        mesh, {.count = 2, .first_sample = 10, .ids = ids, .targets = targets}, DType::bf16);
    EXPECT_EQ(batch.length, 2);
    EXPECT_EQ(batch.ids.to_vector<std::int32_t>(), ids);
    EXPECT_EQ(batch.targets.to_vector<std::int32_t>(), targets);
    EXPECT_EQ(batch.mask.to_vector<float>(), std::vector<float>(4, 1));
    EXPECT_EQ(batch.position.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 1, 0, 1}));
    EXPECT_EQ(batch.sequence.to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 0, 1, 1}));
    EXPECT_EQ(batch.token.to_vector<std::int64_t>(), (std::vector<std::int64_t>{20, 21, 22, 23}));
  });
}

TEST(Batch, ThatIsNotWholeSequencesIsAnError) {
  in_ranks(1, [](const Mesh& mesh) {
    const std::vector<std::int32_t> ids(5, 0), other(4, 0);
    expect_error([&] { make_batch(mesh, {.count = 2, .ids = ids, .targets = ids}, DType::f32); },
                 {"5 ids", "2 sequences"});
    expect_error([&] { make_batch(mesh, {.count = 1, .ids = ids, .targets = other}, DType::f32); },
                 {"5 ids", "4 targets"});
  });
}

}  // namespace
}  // namespace pf
