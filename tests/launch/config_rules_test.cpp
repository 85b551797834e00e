#include "launch/config_rules.h"

#include <gtest/gtest.h>

#include <limits>

#include "launch/config_fill.h"
#include "launch/layout_rules.h"
#include "tests/launch/config_text.h"

namespace pf {
namespace {

TEST(ConfigRules, MicroBatchesAreAMultipleOfTheReplicas) {
  EXPECT_EQ(told({"parallel.ranks=2", "train.global_batch=9"}),
            "train.global_batch: found 9, in micro-batches of 2 (train.micro_batch) 5, wanted a "
            "multiple of dp=2 (ranks / (tp cp pp) = 2 / (1 x 1 x 1)); nearest: 8 or 11; or keep it "
            "and set parallel.ranks to 1 or 5");
  EXPECT_EQ(
      error_of(small_run, {"parallel.ranks=5"}),
      "run.yaml:16: train.global_batch: found 8, in micro-batches of 2 (train.micro_batch) 4, "
      "wanted a multiple of dp=5 (ranks / (tp cp pp) = 5 / (1 x 1 x 1)); nearest: 9; or keep it "
      "and "
      "set parallel.ranks to 4");
}

TEST(ConfigRules, TheLastMicroBatchMayBeShorter) {
  for (const char* batch : {"train.global_batch=7", "train.global_batch=8"})
    EXPECT_EQ(error_of(small_run, {"parallel.ranks=2", batch}), "no error");
  EXPECT_EQ(error_of(small_run, {"train.global_batch=1"}), "no error");
}

TEST(ConfigRules, RanksThatABatchAllowsAreNamed) {
  const auto ranks = [](const Overrides& overrides) {
    const std::string error = error_of(small_run, overrides);
    const size_t begin = error.find("; or ");
    return begin == std::string::npos ? "" : error.substr(begin + 5);
  };
  EXPECT_EQ(ranks({"parallel.ranks=64"}), "keep it and set parallel.ranks to 4");
  EXPECT_EQ(ranks({"train.global_batch=48", "parallel.ranks=7"}),
            "keep it and set parallel.ranks to 6 or 8");
  EXPECT_EQ(ranks({"parallel={ranks: 12, tp: 2, pp: 2}"}),
            "keep it and set parallel.ranks to 8 or 16");
  EXPECT_EQ(ranks({with_moe, "parallel={ranks: 24, ep: 8}"}), "");
  EXPECT_EQ(ranks({"train.global_batch=9", "parallel.ranks=2"}),
            "keep it and set parallel.ranks to 1 or 5");
}

TEST(ConfigRules, NearestDivisorsOfALargeNumberTakeNoTime) {
  const std::string error =
      error_of(small_run, {with_moe, "train.global_batch=1073741789", "train.micro_batch=1",
                           "model.moe.balance.group=1048573"});
  EXPECT_TRUE(error.ends_with("; nearest: 1 or 1073741789")) << error;
}

TEST(ConfigRules, KvHeadsDivideHeads) {
  EXPECT_EQ(told({"model.kv_heads=3"}),
            "model.kv_heads: found 3, wanted a divisor of model.heads=4; nearest: 2 or 4");
  EXPECT_EQ(told({"model.kv_heads=9"}),
            "model.kv_heads: found 9, wanted a divisor of model.heads=4; nearest: 4");
}

TEST(ConfigRules, AHeadIsAsWideAsHiddenAllows) {
  EXPECT_EQ(
      error_of(small_run, {"model.heads=3"}),
      "run.yaml:3: model.hidden: found 64, no multiple of model.heads=3; give model.head_dim");
  EXPECT_EQ(error_of(small_run, {"model.heads=3", "model.head_dim=20"}), "no error");
}

TEST(ConfigRules, AHeadHasAnEvenWidth) {
  EXPECT_EQ(told({"model.head_dim=15"}),
            "model.head_dim: found 15, wanted a multiple of 2, since rotary positions turn pairs; "
            "nearest: 14 or 16");
}

TEST(ConfigRules, DenseLayersNeedTheirWidth) {
  const std::string want =
      "run.yaml:1: model.ffn: is missing; wanted the inner width of the dense layers, for "
      "instance 256";
  std::string text = small_run;
  text.erase(text.find("  ffn: 128\n"), 11);
  EXPECT_EQ(error_of(text), want);
  EXPECT_EQ(error_of(text, {with_moe}), "no error");
  EXPECT_EQ(error_of(text, {with_moe, "model.moe.every=2"}).substr(10), want.substr(10));
}

TEST(ConfigRules, ATokenGoesToNoMoreExpertsThanThereAre) {
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.top_k=9"}),
            "override 'model.moe.top_k=9': model.moe.top_k: found 9, wanted at most "
            "model.moe.experts=8");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.top_k=8"}), "no error");
}

TEST(ConfigRules, ChoicesFitIntoTheGroups) {
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.groups=3"}),
            "override 'model.moe.groups=3': model.moe.groups: found 3, wanted a divisor of "
            "model.moe.experts=8; nearest: 2 or 4");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.groups=4", "model.moe.top_groups=5"}),
            "override 'model.moe.top_groups=5': model.moe.top_groups: found 5, wanted at most "
            "model.moe.groups=4");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.groups=4", "model.moe.group_best=3"}),
            "override 'model.moe.group_best=3': model.moe.group_best: found 3, wanted at most the "
            "experts of a group=2");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.groups=4", "model.moe.top_k=3"}),
            "override 'model.moe.top_k=3': model.moe.top_k: found 3, wanted at most the experts of "
            "top_groups groups=2");
}

TEST(ConfigRules, BlocksOfACapacityDivideASample) {
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.capacity={factor: 1, block: 5}"}),
            "override 'model.moe.capacity={factor: 1, block: 5}': model.moe.capacity.block: found "
            "5, wanted a divisor of data.sequence=32; nearest: 4 or 8");
  EXPECT_EQ(parse_config(small_run, "a.yaml", {with_moe, "model.moe.capacity={factor: 1}"})
                .model()
                .moe()
                .capacity()
                .block(),
            32);
}

TEST(ConfigRules, PartsThatExcludeEachOtherAreNamed) {
  EXPECT_EQ(told({"model.mlp_bias=true"}),
            "model.mlp_bias: found true, but a SwiGLU has no biases; use false, or choose another "
            "model.activation");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.shared_gate=true"}),
            "override 'model.moe.shared_gate=true': model.moe.shared_gate: found true, but there "
            "is no shared expert; give model.moe.shared_ffn");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.router=forced", "model.moe.bias_rate=0.1"}),
            "override 'model.moe.bias_rate=0.1': model.moe.bias_rate: found 0.1, but choices are "
            "forced; use 0");
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.first_dense=2"}),
            "override 'model.moe.first_dense=2': model.moe.first_dense: found 2, so that no layer "
            "is MoE; wanted less than 2");
  const std::string mla = "model.mla={kv_rank: 8, nope_dim: 4, rope_dim: 4, value_dim: 4}";
  EXPECT_EQ(error_of(small_run, {mla, "model.qk_norm=true"}),
            "override 'model.qk_norm=true': model.qk_norm: found true, but model.mla has none; use "
            "false");
  EXPECT_EQ(error_of(small_run, {mla, "model.mla.rope_dim=5"}),
            "override 'model.mla.rope_dim=5': model.mla.rope_dim: found 5, wanted a multiple of 2, "
            "since rotary positions turn pairs; nearest: 4 or 6");
  EXPECT_EQ(error_of(small_run, {mla}), "no error");
}

TEST(ConfigRules, LearnedPositionsReachTheEndOfASample) {
  EXPECT_EQ(
      error_of(small_run, {"data.sequence=64", "model.position=learned", "model.max_positions=63"}),
      "override 'model.max_positions=63': model.max_positions: found 63, wanted at least "
      "data.sequence=64, since positions are learned");
  EXPECT_EQ(
      error_of(small_run, {"data.sequence=64", "model.position=learned", "model.max_positions=64",
                           "model.rope_scaling={kind: linear, factor: 2}"}),
      "override 'model.rope_scaling={kind: linear, factor: 2}': model.rope_scaling: is for "
      "rotary positions; model.position is learned");
  EXPECT_EQ(error_of(small_run, {"model.rope_scaling={kind: yarn, factor: 2}"}),
            "override 'model.rope_scaling={kind: yarn, factor: 2}': "
            "model.rope_scaling.original_positions: is missing; wanted the longest sequence before "
            "the frequencies were stretched");
}

TEST(ConfigRules, SomeLayerIsMoe) {
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.every=3"}),
            "override 'model.moe.every=3': model.moe.every: found 3, so that no layer is MoE; "
            "wanted at most model.layers=2");
}

TEST(ConfigRules, ABalanceGroupFitsDpAndTheStep) {
  const auto group = [](const std::string& micro_batches, const std::string& size) {
    const std::string error = error_of(
        small_run, {with_moe, "parallel.ranks=4", "train.global_batch=" + micro_batches + "0",
                    "train.micro_batch=10", "model.moe.balance.group=" + size});
    const size_t end = error.find("group: ");
    return end == std::string::npos ? error : error.substr(end + 7);
  };
  for (const char* legal : {"1", "2", "4", "8"}) EXPECT_EQ(group("8", legal), "no error");
  EXPECT_EQ(group("8", "3"), "found 3, wanted a multiple or a divisor of dp=4; nearest: 2 or 4");
  EXPECT_EQ(group("8", "6"), "found 6, wanted a multiple or a divisor of dp=4; nearest: 4 or 8");
  EXPECT_EQ(group("12", "8"),
            "found 8, wanted a divisor of the 12 micro-batches in a step (train.global_batch=120, "
            "train.micro_batch=10); nearest: 6 or 12");
}

TEST(ConfigRules, ABalanceGroupThatIsNotUsedIsNotChecked) {
  EXPECT_EQ(error_of(small_run, {with_moe, "model.moe.balance={kind: micro, group: 7}"}),
            "no error");
}

TEST(ConfigRules, SourcesHaveTheirOwnNames) {
  EXPECT_EQ(error_of(small_run, {"data.sources.1.name=english"}),
            "override 'data.sources.1.name=english': data.sources[1].name: found 'english' again "
            "(first at run.yaml:9); each source needs its own name");
}

TEST(ConfigRules, ANameIsNoPath) {
  EXPECT_EQ(told({"run.name=a/b"}),
            "run.name: found 'a/b', wanted a name without '/'; folders belong into run.folder");
}

TEST(ConfigRules, AMemoryWithoutItsUnitIsNoticed) {
  EXPECT_EQ(told({"cluster.memory=80"}),
            "cluster.memory: found 80 bytes, wanted at least 1MiB; give a unit, as in 80GiB");
}

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
            "parallel.schedule: schedule: interleaved needs a multiple of the 3 stages as its "
            "number of micro-batches, not 8");
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

TEST(ConfigRules, RecomputedLayersAreSomeOfTheModels) {
  EXPECT_EQ(told({"train.recompute_layers=1"}),
            "train.recompute_layers: found 1, but with train.recompute=none nothing is computed "
            "again; use 0");
  EXPECT_EQ(told({"train.recompute=full", "train.recompute_layers=3"}),
            "train.recompute_layers: found 3, wanted at most model.layers=2");
  EXPECT_EQ(error_of(small_run, {"train.recompute=selective", "train.recompute_layers=2"}),
            "no error");
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

TEST(ConfigRules, UlyssesDividesHeads) {
  const auto ulysses = [](const std::string& heads, const std::string& parallel) {
    return rule({"model={heads: " + heads + "}", "train.global_batch=8", "data.sequence=48",
                 "parallel={" + parallel + ", cp_method: ulysses}"});
  };
  EXPECT_EQ(ulysses("4, kv_heads: 2", "ranks: 3, cp: 3"),
            "parallel.cp: found 3, but cp_method=ulysses divides the 4 heads of a tp rank, whole "
            "or in parts of its 2 KV heads; nearest: 2 or 4, or use cp_method=all_gather");
  EXPECT_EQ(ulysses("6, kv_heads: 2, head_dim: 16", "ranks: 3, cp: 3"),
            "parallel.cp: found 3, but cp_method=ulysses divides the 6 heads of a tp rank, whole "
            "or in parts of its 2 KV heads; nearest: 2 or 6, or use cp_method=all_gather");
  EXPECT_EQ(ulysses("4, kv_heads: 4", "ranks: 8, tp: 2, cp: 4"),
            "parallel.cp: found 4, but cp_method=ulysses divides the 2 heads of a tp rank, whole "
            "or in parts of its 2 KV heads; nearest: 2, or use cp_method=all_gather");
  EXPECT_EQ(ulysses("4, kv_heads: 1", "ranks: 4, cp: 4"), "no error");
  EXPECT_EQ(ulysses("4, kv_heads: 1", "ranks: 4, tp: 2, cp: 2"), "no error");
}

TEST(ConfigRules, TwoLevelsOfContextParallelismAreTwo) {
  const auto two_level = [](const std::string& heads, const std::string& parallel) {
    return rule({"model={heads: " + heads + "}", "train.global_batch=8", "data.sequence=48",
                 "parallel={" + parallel + ", cp_method: two_level}"});
  };
  EXPECT_EQ(two_level("4, kv_heads: 4", "ranks: 3, cp: 3"),
            "parallel.cp_method: found two_level, but no part of parallel.cp=3 ranks can divide "
            "the 4 heads and 4 KV heads of a tp rank, and leave others for a ring; use ring");
  EXPECT_EQ(two_level("4, kv_heads: 2", "ranks: 8, tp: 2, cp: 4"),
            "parallel.cp_method: found two_level, but no part of parallel.cp=4 ranks can divide "
            "the 2 heads and 1 KV heads of a tp rank, and leave others for a ring; use ring");
  EXPECT_EQ(two_level("4, kv_heads: 2", "ranks: 4, cp: 4"), "no error");
  EXPECT_EQ(two_level("4, kv_heads: 1", "ranks: 1"), "no error");
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

TEST(ConfigRules, AConfigurationMadeInCodeIsCheckedAsWell) {
  config::Config config = parse_config(small_run, "run.yaml");
  EXPECT_NO_THROW(validate(config));
  config.mutable_train()->clear_clip();
  EXPECT_NO_THROW(validate(config));
  config.mutable_train()->set_clip(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(error_of([&] { validate(config); }),
            "configuration: train.clip: found nan, wanted a number, at least 0");
  config.mutable_train()->clear_clip();
  config.mutable_parallel()->set_ranks(2);
  config.mutable_train()->set_global_batch(9);
  EXPECT_EQ(error_of([&] { validate(config); }).substr(0, 44),
            "configuration: train.global_batch: found 9, ");
  config.mutable_model()->set_heads(0);
  EXPECT_EQ(error_of([&] { validate(config); }),
            "configuration: model.heads: found 0, wanted an integer, 1 to 65536");
  config.mutable_model()->clear_heads();
  EXPECT_EQ(error_of([&] { validate(config); }).substr(0, 38),
            "configuration: model.heads: is missing");
}

TEST(ConfigRules, DpIsWhatTheOtherAxesLeave) {
  config::Config config = parse_config(small_run, "run.yaml");
  config.mutable_parallel()->set_ranks(24);
  config.mutable_parallel()->set_tp(2);
  config.mutable_parallel()->set_pp(3);
  EXPECT_EQ(data_parallel_size(config), 4);
}

TEST(LoraRules, TheRankMustBeGivenAndTheRestHasDefaults) {
  EXPECT_EQ(error_of(small_run, {"train.lora={}"}),
            "override 'train.lora={}': train.lora.rank: is missing; wanted an integer, 1 to 65536: "
            "Width of A [rank, in] and of B [out, rank]; at most the smaller side of a matrix.");
  EXPECT_EQ(error_of(small_run, {"train.lora={rank: 4}"}), "no error");
  const config::Config config = parse_config(small_run, "run.yaml", {"train.lora={rank: 4}"});
  EXPECT_EQ(config.train().lora().alpha(), 16);
  EXPECT_EQ(config.train().lora().on(), "layers.*.attention.*");
  EXPECT_FALSE(parse_config(small_run, "run.yaml", {}).train().has_lora());
}

TEST(LoraRules, APatternThatNoMatrixFitsNamesTheNearest) {
  const std::string wanted =
      "', which no matrix's name fits (norms, biases and embeddings are none); nearest: ";
  EXPECT_EQ(
      error_of(small_run, {"train.lora={rank: 4}", "train.lora.on=layers.*.q, layers.0.mlp.gat"}),
      "override 'train.lora.on=layers.*.q, layers.0.mlp.gat': train.lora.on: found "
      "'layers.0.mlp.gat" +
          wanted + "layers.0.mlp.gate");
  EXPECT_EQ(told({"train.lora={rank: 4}", "train.lora.on='*.norm'"}).substr(0, 29),
            "train.lora.on: found '*.norm'");
  EXPECT_EQ(told({"train.lora={rank: 4}", "train.lora.on=embedding"}).substr(0, 32),
            "train.lora.on: found 'embedding'");
  EXPECT_EQ(error_of(small_run, {"train.lora={rank: 4, on: head}"}), "no error");
  EXPECT_EQ(told({"model.tied=true", "train.lora={rank: 4}", "train.lora.on=head"}).substr(0, 27),
            "train.lora.on: found 'head'");
}

TEST(LoraRules, TheRankIsAtMostTheSmallerSide) {
  std::string text = small_run;
  text += "\n";
  text.insert(text.find("  steps: 10"), "  lora:\n    rank: 65\n");
  EXPECT_EQ(error_of(text, {}),
            "run.yaml:15: train.lora.rank: found 65, wanted at most 64: layers.0.attention.q is "
            "[64, 64]; a lower rank, or another train.lora.on");
  EXPECT_EQ(error_of(small_run, {"train.lora={rank: 64}"}), "no error");
  EXPECT_EQ(told({with_moe, "train.lora={on: '*.experts.*'}", "train.lora.rank=33"}),
            "train.lora.rank: found 33, wanted at most 32: layers.0.moe.experts.gate is "
            "[8, 32, 64]; a lower rank, or another train.lora.on");
}

TEST(LoraRules, WhatLoraFreezesIsNotFrozenTwice) {
  EXPECT_EQ(error_of(small_run, {"train.lora={rank: 4}", "train.freeze=embedding"}),
            "override 'train.freeze=embedding': train.freeze: found 'embedding', but train.lora "
            "freezes all but what it adds; leave one of them out");
}

}  // namespace
}  // namespace pf
