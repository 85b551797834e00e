#include "launch/rank_limits.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/error.h"
#include "launch/run_mesh.h"
#include "models/transformer.h"
#include "optim/optimizer.h"
#include "parallel/gradients.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t many = 1 << 30, mib = 1 << 20;

constexpr const char* small = R"(
model: {layers: 2, hidden: 64, heads: 4, ffn: 128}
data: {sequence: 32, sources: [{name: english, path: english.txt}]}
train: {steps: 10, micro_batch: 2, global_batch: 8}
optimizer: {lr: 1e-3}
)";
constexpr const char* with_moe = "model.moe={experts: 8, top_k: 2, ffn: 32}";

using Overrides = std::vector<std::string>;

std::string refused(const Overrides& overrides, const Machine& machine) {
  try {
    check_ranks(parse_config(small, "run.yaml", overrides), machine);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// What each rank really holds before the first step.
std::int64_t really_held(const config::Config& config) {
  std::atomic<std::int64_t> least = many;
  in_ranks(int(config.parallel().ranks()), [&](const Mesh& mesh) {
    Transformer model(config.model(), {config.data().sequence(), 1024, DType::bf16}, mesh);
    const auto visit = [&](const Visitor& visitor) { model.visit(visitor); };
    model.initialise(1);
    Gradients gradients(mesh, trained_parameters(model), sharing_of(config));
    const auto optimizer = make_optimizer(config.optimizer(), mesh, gradients.parts(), visit);
    if (config.parallel().zero() < 3) visit({.pack = [](Pack& pack) { pack.packed(DType::bf16); }});
    const auto live = std::int64_t(mesh.device().memory().live);
    for (std::int64_t seen = least; live < seen && !least.compare_exchange_weak(seen, live);) {
    }
  });
  return least;
}

TEST(RankLimits, WhatARankNeedsIsWhatItHolds) {
  for (const std::string zero : {"0", "1", "2", "3"}) {
    const Overrides overrides{with_moe, "run.precision=bf16",
                              "parallel={ranks: 4, zero: " + zero + "}"};
    const std::int64_t held = really_held(parse_config(small, "run.yaml", overrides));
    const std::int64_t four = 4 * (held + (256 << 10));
    EXPECT_EQ(refused(overrides, {4, four, many}), "no error") << zero;
    EXPECT_NE(refused(overrides, {4, four * 49 / 50, many}), "no error") << zero;
  }
}

TEST(RankLimits, AStageHoldsItsOwnLayers) {
  const Overrides layers{"model.layers=14", "run.precision=bf16"};
  const auto with = [&](const std::string& parallel) {
    Overrides all = layers;
    all.push_back("parallel=" + parallel);
    return all;
  };
  const std::int64_t one = 11 * mib;  // less than the whole model needs, more than its half
  EXPECT_NE(refused(with("{ranks: 1}"), {1, one, many}), "no error");
  EXPECT_EQ(refused(with("{ranks: 2, pp: 2}"), {2, 2 * one, many}), "no error");
  // It is the largest stage that has to fit.
  EXPECT_NE(refused(with("{ranks: 2, pp: 2, stage_layers: '1,15'}"), {2, 2 * one, many}),
            "no error");
  EXPECT_NE(refused(with("{ranks: 2, pp: 2, stage_layers: '15,1'}"), {2, 2 * one, many}),
            "no error");
}

TEST(RankLimits, TheMostRanksThatFitAreNamed) {
  const Overrides ranks{"parallel.ranks=64", "train.global_batch=128"};
  const std::string error = refused(ranks, {64, 64 * mib, many});
  EXPECT_EQ(error,
            "found 64; a rank needs at least 2.0 MiB for weights, gradients and "
            "optimizer, and has 1.0 MiB, its share of 64.0 MiB; at most 31 fit");
  EXPECT_EQ(refused({"parallel.ranks=31", "train.global_batch=62"}, {31, 64 * mib, many}),
            "no error");
  EXPECT_NE(refused({"parallel.ranks=32", "train.global_batch=64"}, {32, 64 * mib, many}),
            "no error");
}

TEST(RankLimits, ReplicasThatDivideTheStateNeedLess) {
  const Overrides ranks{"parallel.ranks=64", "train.global_batch=128", "parallel.zero=1"};
  const auto most = [&](const std::string& shard) {
    Overrides all = ranks;
    all.push_back("parallel.zero_shard=" + shard);
    const std::string error = refused(all, {64, 64 * mib, many});
    return error.substr(error.find("at most"));
  };
  EXPECT_EQ(most("0"), "at most 55 fit");
  EXPECT_EQ(most("2"), "at most 40 fit");
}

TEST(RankLimits, AModelThatIsTooLargeIsSaid) {
  EXPECT_EQ(refused({}, {1, mib, many}),
            "found 1; a rank needs at least 2.0 MiB for weights, gradients and "
            "optimizer, and has 1.0 MiB, its share of 1.0 MiB; not one fits");
}

TEST(RankLimits, ProcessesShareTheirMachine) {
  const Overrides ranks{"parallel.ranks=64", "train.global_batch=128"};
  EXPECT_EQ(refused(ranks, {8, 8 * mib, many, true}),
            "found 64; a rank needs at least 1.8 MiB for weights, gradients and "
            "optimizer, and has 1.0 MiB, its share of 8.0 MiB; at most 4 fit on this machine");
  EXPECT_EQ(refused(ranks, {4, 8 * mib, many, true}), "no error");
}

TEST(RankLimits, AGivenMemoryIsARanks) {
  EXPECT_EQ(refused({"cluster.memory=1MiB"}, {1, 100 * mib, many}),
            "found 1; a rank needs at least 2.0 MiB for weights, gradients and "
            "optimizer, and has 1.0 MiB (cluster.memory); not one fits");
  EXPECT_EQ(refused({"cluster.memory=4MiB"}, {1, 100 * mib, many}), "no error");
}

TEST(RankLimits, WhatIsFrozenNeedsNeitherGradientNorState) {
  EXPECT_EQ(refused({"train.freeze=layers.*"}, {1, 3 * mib / 2, many}), "no error");
  const std::string wrong = refused({"train.freeze=layerz.*"}, {1, 100 * mib, many});
  EXPECT_NE(wrong.find("train.freeze: found 'layerz.*', wh"), std::string::npos) << wrong;
}

TEST(RankLimits, ThreadsAreCounted) {
  EXPECT_EQ(refused({"parallel={ranks: 4, threads: 3}"}, {4, many, 11}),
            "found 4 on this machine, each with parallel.threads=3; it can start 11 "
            "threads; at most 3 fit");
  EXPECT_EQ(refused({"parallel={ranks: 4, threads: 3}"}, {4, many, 12}), "no error");
}

}  // namespace
}  // namespace pf
