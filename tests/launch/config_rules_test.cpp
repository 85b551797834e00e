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

TEST(ConfigRules, RecomputedLayersAreSomeOfTheModels) {
  EXPECT_EQ(told({"train.recompute_layers=1"}),
            "train.recompute_layers: found 1, but with train.recompute=none nothing is computed "
            "again; use 0");
  EXPECT_EQ(told({"train.recompute=full", "train.recompute_layers=3"}),
            "train.recompute_layers: found 3, wanted at most model.layers=2");
  EXPECT_EQ(error_of(small_run, {"train.recompute=selective", "train.recompute_layers=2"}),
            "no error");
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
