#include "launch/layout_rules.h"

#include <gtest/gtest.h>

#include "tests/launch/config_text.h"

namespace pf {
namespace {

TEST(ConfigRules, BothViewsOfTheRanksDivideThem) {
  EXPECT_EQ(
      told({"parallel={tp: 2, cp: 2}", "parallel.ranks=6"}),
      "parallel.ranks: found 6, wanted a multiple of tp x cp x pp = 2 x 2 x 1 = 4; nearest: 4 "
      "or 8");
  EXPECT_EQ(
      told({with_moe, "parallel={ep: 8, pp: 2}", "parallel.ranks=4"}),
      "parallel.ranks: found 4, wanted a multiple of etp x ep x pp = 1 x 8 x 2 = 16; nearest: "
      "16");
}

TEST(ConfigRules, RanksDivideTheExperts) {
  EXPECT_EQ(error_of(small_run, {with_moe, "train.global_batch=6", "parallel={ranks: 3, ep: 3}"}),
            "override 'parallel={ranks: 3, ep: 3}': parallel.ep: found 3, wanted a divisor of "
            "model.moe.experts=8; nearest: 2 or 4");
  EXPECT_EQ(told({"parallel={ranks: 2, ep: 2}"}),
            "parallel.ep: found 2, but there are no experts to share: model.moe is missing; use 1");
  EXPECT_EQ(told({"parallel={ranks: 2, etp: 2}"}),
            "parallel.etp: found 2, but there are no experts to cut: model.moe is missing; use 1");
}

TEST(ConfigRules, TpDividesHeadsAndWidths) {
  const auto tp = [](const std::string& size, const Overrides& model) {
    Overrides all = model;
    all.insert(all.end(),
               {"parallel.ranks=" + size, "train.global_batch=480", "parallel.tp=" + size});
    return told(all);
  };
  EXPECT_EQ(tp("8", {}), "parallel.tp: found 8, wanted a divisor of model.heads=4; nearest: 4");
  EXPECT_EQ(tp("3", {}),
            "parallel.tp: found 3, wanted a divisor of model.heads=4; nearest: 2 or 4");
  EXPECT_EQ(tp("4", {"model.ffn=126"}),
            "parallel.tp: found 4, wanted a divisor of model.ffn=126; nearest: 2");
  EXPECT_EQ(tp("4", {with_moe, "model.moe.shared_ffn=30"}),
            "parallel.tp: found 4, wanted a divisor of model.moe.shared_ffn=30; nearest: 2");
  const Overrides twelve{"model={heads: 12, kv_heads: 6, head_dim: 8, ffn: 120}",
                         "data.sequence=48"};
  EXPECT_EQ(tp("4", twelve),
            "parallel.tp: found 4, wanted a divisor or a multiple of "
            "model.kv_heads=6; nearest: 3 or 6");
  for (const char* size : {"2", "3", "6", "12"}) EXPECT_EQ(tp(size, twelve), "no error") << size;
  EXPECT_EQ(tp("2", {"model.vocabulary=257"}), "no error");
}

TEST(ConfigRules, AllExpertsMeansThatTheDenseWidthIsNotAsked) {
  EXPECT_EQ(told({with_moe, "model.ffn=127", "parallel={ranks: 2, tp: 2}"}), "no error");
}

TEST(ConfigRules, TwiceCpDividesTheSequence) {
  EXPECT_EQ(told({"data.sequence=36", "parallel={ranks: 4, cp: 4}"}),
            "parallel.cp: found 4, wanted 2 x cp to divide data.sequence=36; nearest: 3 or 6");
  EXPECT_EQ(told({"data.sequence=7", "parallel={ranks: 2, cp: 2}"}),
            "parallel.cp: found 2, wanted 2 x cp to divide data.sequence=7; nearest: 1");
  EXPECT_EQ(told({"parallel={ranks: 64, cp: 64}"}),
            "parallel.cp: found 64, wanted 2 x cp to divide data.sequence=32; nearest: 16");
  EXPECT_EQ(error_of(small_run, {"data.sequence=1"}), "no error");
}

TEST(ConfigRules, AStageHasALayer) {
  EXPECT_EQ(told({"parallel={ranks: 8, pp: 8}"}),
            "parallel.pp: found 8, wanted pp x chunks of at most model.layers + 2=4; nearest: 4");
  EXPECT_EQ(told({"model.layers=8", "parallel={ranks: 4, pp: 4, chunks: 3}"}),
            "parallel.pp: found 4, wanted pp x chunks of at most model.layers + 2=10; nearest: 3");
  EXPECT_EQ(told({"parallel.chunks=5"}),
            "parallel.chunks: found 5, wanted chunks of at most model.layers + 2=4");
  EXPECT_EQ(told({"parallel={ranks: 2, pp: 2, stage_layers: '3,2'}"}),
            "parallel.stage_layers: stages: found 2 of together 5 layers, the smallest of 2; "
            "wanted 2 of together 4 (embedding and head are layers), none without one");
  EXPECT_EQ(told({"parallel={ranks: 2, pp: 2, stage_layers: '3;1'}"}),
            "parallel.stage_layers: found '3;1', wanted even, or numbers of layers with commas "
            "between");
  EXPECT_EQ(error_of(small_run, {"parallel={ranks: 2, pp: 2, stage_layers: '3, 1'}"}), "no error");
}

TEST(ConfigRules, AScheduleFitsItsChunksAndMicroBatches) {
  EXPECT_EQ(told({"parallel={ranks: 2, pp: 2, chunks: 2}"}),
            "parallel.chunks: found 2, but parallel.schedule=one_f_one_b has 1 chunk on each rank; "
            "use 1, or the schedule interleaved or zbv");
  EXPECT_EQ(told({"parallel={ranks: 2, pp: 2, schedule: zbv}"}),
            "parallel.chunks: found 1, but parallel.schedule=zbv has 2 chunks on each rank; use 2");
  EXPECT_EQ(told({"parallel={ranks: 3, pp: 3, chunks: 1, schedule: interleaved}",
                  "train={micro_batch: 1, global_batch: 8}"}),
            "parallel.schedule: interleaved needs a multiple of the 3 stages as its number of "
            "micro-batches, not 8");
}

TEST(ConfigRules, AStepOfABillionMicroBatchesIsCheckedAtOnce) {
  EXPECT_EQ(error_of(small_run, {"parallel={ranks: 2, pp: 2}",
                                 "train={micro_batch: 1, global_batch: 1000000000}"}),
            "no error");
}

TEST(ConfigRules, EtpDividesTheExpertsWidth) {
  EXPECT_EQ(told({with_moe, "train.global_batch=24", "parallel={ranks: 3, etp: 3}"}),
            "parallel.etp: found 3, wanted a divisor of model.moe.ffn=32; nearest: 2 or 4");
  EXPECT_EQ(told({with_moe, "train.global_batch=128", "parallel={ranks: 64, etp: 64}"}),
            "parallel.etp: found 64, wanted a divisor of model.moe.ffn=32; nearest: 32");
  EXPECT_EQ(told({with_moe, "train.global_batch=32", "parallel={ranks: 16, ep: 16}"}),
            "parallel.ep: found 16, wanted a divisor of model.moe.experts=8; nearest: 8");
}

TEST(ConfigRules, ReplicasThatShareAStateDivideDp) {
  const std::string two = "parallel={ranks: 4, zero: 1, zero_shard: ";
  EXPECT_EQ(told({two + "3}"}),
            "parallel.zero_shard: found 3, wanted a divisor of dp=4; nearest: 2 or 4");
  EXPECT_EQ(error_of(small_run, {two + "2}"}), "no error");
  EXPECT_EQ(error_of(small_run, {"parallel={ranks: 4, zero: 3, zero_shard: 2}"}), "no error");
  EXPECT_EQ(told({"parallel={ranks: 4, zero_shard: 2}"}),
            "parallel.zero_shard: found 2, but with parallel.zero=0 nothing is shared; use 0");
}

// What is said, without its place.
std::string rule(const Overrides& overrides) {
  const std::string error = error_of(small_run, overrides);
  const std::size_t end = error.rfind(": found ");
  return end == std::string::npos ? error : error.substr(error.rfind(' ', end - 1) + 1);
}

TEST(ConfigRules, TpAndCpDivideASampleAndCutNoBlock) {
  EXPECT_EQ(rule({"parallel={ranks: 6, tp: 2, cp: 3}", "model={heads: 4, kv_heads: 2}",
                  "data.sequence=33", "train.global_batch=2"}),
            "parallel.cp: found 3, wanted 2 x cp to divide data.sequence=33; nearest: 1");
  EXPECT_EQ(rule({"parallel={ranks: 2, tp: 2}", "data.sequence=33"}),
            "data.sequence: found 33, wanted a multiple of 2, since tp x cp = 2 x 1 ranks share "
            "it; nearest: 32 or 34");
  EXPECT_EQ(rule({with_moe, "model.moe.capacity={factor: 1}", "parallel={ranks: 4, tp: 2, cp: 2}"}),
            "model.moe.capacity.block: found 32, wanted a divisor of 8, so that tp x cp = 2 x 2 "
            "cuts no block; nearest: 8");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.capacity={factor: 1, block: 8}",
                                 "parallel={ranks: 4, tp: 2, cp: 2}"}),
            "no error");
}

std::string rule_of_heads(const std::string& cp_method, const std::string& heads,
                          const std::string& parallel) {
  return rule({"model={heads: " + heads + "}", "train.global_batch=8", "data.sequence=48",
               "parallel={" + parallel + ", cp_method: " + cp_method + "}"});
}

TEST(ConfigRules, UlyssesDividesHeads) {
  EXPECT_EQ(rule_of_heads("ulysses", "4, kv_heads: 2", "ranks: 3, cp: 3"),
            "parallel.cp: found 3, but cp_method=ulysses divides the 4 heads of a tp rank, whole "
            "or in parts of its 2 KV heads; nearest: 2 or 4, or use cp_method=all_gather");
  EXPECT_EQ(rule_of_heads("ulysses", "6, kv_heads: 2, head_dim: 16", "ranks: 3, cp: 3"),
            "parallel.cp: found 3, but cp_method=ulysses divides the 6 heads of a tp rank, whole "
            "or in parts of its 2 KV heads; nearest: 2 or 6, or use cp_method=all_gather");
  EXPECT_EQ(rule_of_heads("ulysses", "4, kv_heads: 4", "ranks: 8, tp: 2, cp: 4"),
            "parallel.cp: found 4, but cp_method=ulysses divides the 2 heads of a tp rank, whole "
            "or in parts of its 2 KV heads; nearest: 2, or use cp_method=all_gather");
  EXPECT_EQ(rule_of_heads("ulysses", "4, kv_heads: 1", "ranks: 4, cp: 4"), "no error");
  EXPECT_EQ(rule_of_heads("ulysses", "4, kv_heads: 1", "ranks: 4, tp: 2, cp: 2"), "no error");
}

TEST(ConfigRules, TwoLevelsOfContextParallelismAreTwo) {
  EXPECT_EQ(rule_of_heads("two_level", "4, kv_heads: 4", "ranks: 3, cp: 3"),
            "parallel.cp_method: found two_level, but no part of parallel.cp=3 ranks can divide "
            "the 4 heads and 4 KV heads of a tp rank, and leave others for a ring; use ring");
  EXPECT_EQ(rule_of_heads("two_level", "4, kv_heads: 2", "ranks: 8, tp: 2, cp: 4"),
            "parallel.cp_method: found two_level, but no part of parallel.cp=4 ranks can divide "
            "the 2 heads and 1 KV heads of a tp rank, and leave others for a ring; use ring");
  EXPECT_EQ(rule_of_heads("two_level", "4, kv_heads: 2", "ranks: 4, cp: 4"), "no error");
  EXPECT_EQ(rule_of_heads("two_level", "4, kv_heads: 1", "ranks: 1"), "no error");
}

TEST(ConfigRules, WhatIsNotThereYetIsSaidBeforeTraining) {
  const auto said = [](const std::string& key, const std::string& value) {
    Places places;
    const config::Config config =
        parse_config(small_run, "run.yaml", {with_moe, "parallel.ranks=2", key + "=" + value},
                     {.places = &places});
    const std::string start = "override '" + key + "=" + value + "': " + key + ": ";
    const std::string error = error_of([&] { check_supported(config, places); });
    return error.starts_with(start) ? error.substr(start.size()) : error;
  };
  EXPECT_EQ(said("cluster.device", "cuda"),
            "found 'cuda', but training on it is not in this version yet; use cpu");
}

}  // namespace
}  // namespace pf
