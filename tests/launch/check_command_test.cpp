#include "launch/check_command.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/backend.h"
#include "launch/run_mesh.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

// Eight experts, a vocabulary that no tp divides, sizes of which no two are equal.
const std::string forced =
    "model.moe={experts: 8, top_k: 2, ffn: 32, router: forced, z_loss: 1e-3}";

config::Config run_of(const std::string& parallel, const Overrides& more = {}) {
  Overrides all{forced,
                "run.precision=bf16",
                "model.kv_heads=2",
                "model.vocabulary=259",
                "train.micro_batch=1",
                "parallel={" + parallel + "}"};
  all.insert(all.end(), more.begin(), more.end());
  return parse_config(small_run, "run.yaml", all);
}

// Of all ranks, with memory.
std::vector<RankNeeds> really_needed(const config::Config& config) {
  std::vector<RankNeeds> all(std::size_t(config.parallel().ranks()));
  run_thread_ranks(int(all.size()), [&](Communicator& communicator) {
    Device device(make_cpu_backend(1));
    all[std::size_t(communicator.rank())] = needs_of_step(config, communicator, device);
  });
  return all;
}

void expect_equal(const RankNeeds& checked, const RankNeeds& real) {
  EXPECT_EQ(checked.stage, real.stage);
  EXPECT_EQ(checked.layers, real.layers);
  EXPECT_EQ(checked.parameters, real.parameters);
  EXPECT_EQ(checked.weights, real.weights);
  EXPECT_EQ(checked.gradients, real.gradients);
  EXPECT_EQ(checked.states, real.states);
  EXPECT_EQ(checked.copies, real.copies);
  EXPECT_EQ(checked.peak, real.peak);
  EXPECT_EQ(checked.traffic, real.traffic);
}

constexpr const char* layouts[] = {
    "ranks: 1",
    "ranks: 4, tp: 2, ep: 2",
    "ranks: 4, cp: 2, ep: 4",
    "ranks: 4, cp: 4, cp_method: ring",
    "ranks: 4, tp: 2, etp: 2, ep: 2, dispatcher: all_gather",
    "ranks: 4, pp: 2, ep: 2",
    "ranks: 4, pp: 4, schedule: zbh1",
    "ranks: 4, zero: 1, ep: 2",
    "ranks: 4, zero: 2, ep: 2",
    "ranks: 4, zero: 3, ep: 2",
    "ranks: 4, tp: 2, ep: 2, zero: 1, zero_shard: 2",
};

TEST(Check, AStepNeedsWhatARealOneNeeds) {
  for (const std::string layout : layouts) {
    SCOPED_TRACE(layout);
    const config::Config config = run_of(layout);
    const std::vector<RankNeeds> real = really_needed(config), stages = needs_of_stages(config);
    ASSERT_EQ(stages.size(), std::size_t(config.parallel().pp()));
    for (const RankNeeds& stage : stages) expect_equal(stage, real[std::size_t(stage.rank)]);
  }
}

TEST(Check, AStepOfOtherKindsDoesToo) {
  for (const std::string more :
       {"train.recompute=full", "optimizer.kind=muon", "train.lora={rank: 2}", "model.tied=true",
        "model.moe.balance={kind: global}"}) {
    SCOPED_TRACE(more);
    const config::Config config = run_of("ranks: 4, pp: 2, ep: 2", {more});
    const std::vector<RankNeeds> real = really_needed(config);
    for (const RankNeeds& stage : needs_of_stages(config))
      expect_equal(stage, real[std::size_t(stage.rank)]);
  }
}

TEST(Check, NoOtherRankOfAStageNeedsMore) {
  for (const std::string layout : layouts) {
    SCOPED_TRACE(layout);
    const config::Config config = run_of(layout);
    const std::vector<RankNeeds> stages = needs_of_stages(config);
    for (const RankNeeds& real : really_needed(config)) {
      const RankNeeds& checked = stages[std::size_t(real.stage)];
      EXPECT_LE(real.peak, checked.peak) << real.rank;
      EXPECT_LE(real.held(), checked.held()) << real.rank;
    }
  }
}

TEST(Check, WhatIsHeldIsWhatParametersHave) {
  const RankNeeds needs = needs_of_stages(run_of("ranks: 1"))[0];
  EXPECT_EQ(needs.weights, 4 * needs.parameters);
  EXPECT_GE(needs.gradients, 4 * needs.parameters);
  EXPECT_LT(needs.gradients, 4 * needs.parameters + 20000);
  EXPECT_GE(needs.states, 8 * needs.parameters);
  EXPECT_LT(needs.states, 8 * needs.parameters + 20000);
  EXPECT_GT(needs.activations(), 0);
}

TEST(Check, StagesOfZeroHoldLessAndLess) {
  const auto held = [](const std::string& zero) {
    return needs_of_stages(run_of("ranks: 4, zero: " + zero))[0];
  };
  EXPECT_LT(held("1").states, held("0").states / 3);
  EXPECT_LT(held("2").gradients, held("1").gradients);
  EXPECT_LT(held("3").weights, held("2").weights / 3);
}

TEST(Check, GroupsLeaveANodeWhereTheirRanksAreOnTwo) {
  const Layout layout = Layout::make(16, 2, 2, 8, 1, 1, 2);
  EXPECT_EQ(groups_that_leave(layout, "tp", 8), 0);
  EXPECT_EQ(groups_that_leave(layout, "tp", 3), 3);  // {2 3}, {8 9} and {14 15} cross 3, 9, 15
  EXPECT_EQ(groups_that_leave(layout, "cp", 8), 0);
  EXPECT_EQ(groups_that_leave(layout, "dp", 8), 4);
  EXPECT_EQ(groups_that_leave(layout, "tp x dp", 8), 2);
  EXPECT_EQ(groups_that_leave(layout, "ep", 8), 0);
  EXPECT_EQ(groups_that_leave(layout, "edp", 8), 8);
  EXPECT_EQ(groups_that_leave(layout, "edp", 0), 0);
  EXPECT_EQ(groups_that_leave(Layout::make(16, 2, 1, 1, 1, 4, 2), "ends", 8), 4);
  EXPECT_EQ(groups_that_leave(Layout::make(16, 2, 1, 1, 1, 4, 2), "pp", 16), 0);
}

TEST(Check, TheLargestMicroBatchThatFitsIsFound) {
  const auto peak = [](int size) {
    return needs_of_stages(run_of("ranks: 1", {"train.micro_batch=" + std::to_string(size)}))[0]
        .peak;
  };
  const config::Config config = run_of("ranks: 1");
  ASSERT_LT(peak(3), peak(4));
  EXPECT_EQ(largest_micro_batch(config, peak(4)), 4);
  EXPECT_EQ(largest_micro_batch(config, peak(4) - 1), 3);
  EXPECT_EQ(largest_micro_batch(config, peak(8)), 8);
  EXPECT_EQ(largest_micro_batch(config, peak(1) - 1), 0);
  // Of 8 sequences, 3 in a micro-batch make 3, which 2 replicas can't divide.
  EXPECT_EQ(largest_micro_batch(run_of("ranks: 2"), peak(3)), 2);
}

class CheckProgram : public testing::Test {
 protected:
  void SetUp() override {
    here.write("run.yaml", small_run);
  }
  const TemporaryFolder here;
};

TEST_F(CheckProgram, SaysWhatTrainingMeasures) {
  write_small_run(here);
  for (const std::string layout :
       {"{ranks: 2, ep: 2}", "{ranks: 4, tp: 2, cp: 2, zero: 1}", "{ranks: 4, pp: 2, zero: 2}"}) {
    SCOPED_TRACE(layout);
    const std::string of = " run.yaml '" + forced + "' run.precision=bf16 'parallel=" + layout +
                           "' train.steps=1 train.micro_batch=1 ";
    const Outcome checked = in_shell(here, "$p check --json" + of);
    ASSERT_EQ(checked.code, 0) << checked.err;
    const Outcome trained = in_shell(here, "rm -rf runs; $p train" + of);
    ASSERT_EQ(trained.code, 0) << trained.err;
    const auto told = nlohmann::json::parse(checked.out);
    std::istringstream lines(here.read("runs/run/metrics.jsonl"));
    std::string line;
    std::getline(lines, line);
    const auto step = nlohmann::json::parse(line);
    std::int64_t peak = 0;
    std::map<std::string, std::int64_t> sent;
    for (const auto& stage : told["stages"])
      peak = std::max<std::int64_t>(peak, stage["peak_bytes"]);
    for (const auto& traffic : told["stages"][0]["traffic"])
      sent[traffic["axes"]] += std::int64_t(traffic["bytes"]);
    EXPECT_EQ(step["memory"]["peak"], peak);
    for (const auto& [axes, bytes] : step["sent"].items()) EXPECT_EQ(sent[axes], bytes) << axes;
    EXPECT_FALSE(step["sent"].empty());
  }
}

TEST_F(CheckProgram, RefusesAnIllegalLayoutWithTheNearest) {
  const Outcome outcome = in_shell(here, "$p check run.yaml --ranks 8 parallel.tp=8");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(
      contains(outcome.err, "parallel.tp: found 8, wanted a divisor of model.heads=4; nearest: 4"))
      << outcome.err;
}

TEST_F(CheckProgram, OpensNoData) {
  const Outcome outcome = in_shell(here, "$p check run.yaml --ranks 2");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "types, shapes and labels are right")) << outcome.out;
}

TEST_F(CheckProgram, FailsWhereTheJobDoesNotFit) {
  const Outcome outcome = in_shell(here, "$p check run.yaml cluster.memory=1MiB");
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_TRUE(contains(outcome.out,
                       "do not fit into 1.0 MiB (cluster.memory); no "
                       "train.micro_batch fits"))
      << outcome.out;
}

TEST_F(CheckProgram, TakesSecondsForAThousandRanksOfALargeModel) {
  for (const std::string model : {"mixtral-8x7b", "deepseek-v3"}) {
    const auto begin = std::chrono::steady_clock::now();
    const Outcome outcome = in_shell(
        here, "printf '%s\\n' 'model: {preset: " + model +
                  "}' 'data: {sequence: 4096, sources: [{name: a, path: none}]}' "
                  "'train: {steps: 10, micro_batch: 1, global_batch: 256}' 'optimizer: {lr: 1e-4}' "
                  "'run: {precision: bf16}' >large.yaml; $p check large.yaml --json --ranks 1024 "
                  "parallel.tp=2 parallel.ep=8 parallel.pp=8");
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(nlohmann::json::parse(outcome.out)["stages"].size(), 8u);
    EXPECT_LT(seconds.count(), 60) << model;
  }
}

}  // namespace
}  // namespace pf
