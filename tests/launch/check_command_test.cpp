#include "launch/check_command.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/launch/shell.h"

namespace pf {
namespace {

using Json = nlohmann::json;

const std::string forced =
    "model.moe={experts: 8, top_k: 2, ffn: 32, router: forced, z_loss: 1e-3}";

class CheckProgram : public testing::Test {
 protected:
  void SetUp() override { here.write("run.yaml", small_run); }
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
    const auto told = Json::parse(checked.out);
    std::istringstream lines(here.read("runs/run/metrics.jsonl"));
    std::string line;
    std::getline(lines, line);
    const auto step = Json::parse(line);
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

// Peaks of the ranks while the profile was taken.
std::vector<std::int64_t> profiled_peaks(const TemporaryFolder& here, int ranks) {
  std::vector<std::int64_t> peaks(std::size_t(ranks), 0);
  const Json trace = Json::parse(here.read("runs/run/trace.json"));
  for (const Json& event : trace["traceEvents"]) {
    if (event["name"] != "bytes in tensors") continue;
    std::int64_t& peak = peaks[event["pid"].get<std::size_t>() - 1];
    peak = std::max<std::int64_t>(peak, event["args"]["bytes"]);
  }
  return peaks;
}

std::vector<std::int64_t> checked_peaks(const Outcome& outcome) {
  std::vector<std::int64_t> peaks;
  const Json report = Json::parse(outcome.out);
  for (const Json& stage : report["stages"]) peaks.push_back(stage["peak_bytes"]);
  return peaks;
}

constexpr const char* uneven =
    " run.yaml run.precision=bf16 train.steps=5 train.micro_batch=1 optimizer.lr=0.05 "
    "train.sample_bytes=0 'model.moe={experts: 8, top_k: 2, ffn: 256, balance: {weight: 0}}' ";

TEST_F(CheckProgram, WithRecordedCountsNeedsWhatTrainingDid) {
  write_small_run(here);
  for (const std::string layout :
       {"{ranks: 4, ep: 4}", "{ranks: 4, tp: 2, etp: 2, ep: 2}", "{ranks: 4, ep: 2, pp: 2}",
        "{ranks: 4, cp: 2, ep: 4, dispatcher: all_gather}", "{ranks: 2, ep: 2, zero: 2}"}) {
    for (const std::string more :
         {"", "train.recompute=full", "model.moe.capacity={factor: 1, block: 8}"}) {
      SCOPED_TRACE(layout + more);
      const std::string of =
          uneven + ("'parallel=" + layout + "' ") + (more.empty() ? "" : "'" + more + "' ");
      const Outcome trained = in_shell(here, "rm -rf runs; $p train --profile=3-5" + of);
      ASSERT_EQ(trained.code, 0) << trained.err;
      const Outcome checked = in_shell(here, "$p check --json --counts runs/run/trace.json" + of);
      ASSERT_EQ(checked.code, 0) << checked.err;
      const int ranks = layout[8] - '0';
      const std::vector<std::int64_t> real = profiled_peaks(here, ranks),
                                      found = checked_peaks(checked);
      const auto each = std::ptrdiff_t(real.size() / found.size());
      for (std::size_t stage = 0; stage < found.size(); ++stage) {
        const auto first = real.begin() + std::ptrdiff_t(stage) * each;
        EXPECT_EQ(found[stage], *std::max_element(first, first + each)) << stage;
      }
      // So that equal shares would not do.
      if (more.empty()) {
        EXPECT_NE(found, checked_peaks(in_shell(here, "$p check --json" + of)));
      }
    }
  }
}

TEST_F(CheckProgram, RefusesCountsOfAnotherRun) {
  write_small_run(here);
  const std::string of = uneven;
  ASSERT_EQ(in_shell(here, "$p train --profile=3-4" + of + "--ranks 2 parallel.ep=2").code, 0);
  const auto told_of = [&](const std::string& more) {
    const Outcome outcome = in_shell(here, "$p check --counts runs/run/trace.json" + of + more);
    EXPECT_EQ(outcome.code, 2);
    return outcome.err;
  };
  EXPECT_TRUE(contains(told_of("--ranks 1"), "found rank 1, but parallel.ranks=1"));
  EXPECT_TRUE(contains(told_of("--ranks 4 parallel.ep=2"), "no whole step of rank 2"));
  EXPECT_TRUE(contains(told_of("--ranks 2"), "recorded were 16 counts, asked for are 8"));
  EXPECT_TRUE(contains(told_of("--ranks 2 parallel.ep=2 model.layers=1"),
                       "recorded reads of counts 12 were asked for"))
      << told_of("--ranks 2 parallel.ep=2 model.layers=1");
  EXPECT_TRUE(
      contains(told_of("--ranks 2 parallel.ep=2 model.layers=3"), "the recorded steps end after"));
  here.write("none.json", "{}\n");
  EXPECT_TRUE(contains(in_shell(here, "$p check run.yaml --counts none.json").err,
                       "none.json: no whole step of rank 0"));
  EXPECT_TRUE(contains(in_shell(here, "$p check run.yaml --counts absent.json").err,
                       "absent.json: can't be read: No such file"));
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
    EXPECT_EQ(Json::parse(outcome.out)["stages"].size(), 8u);
    EXPECT_LT(seconds.count(), 60) << model;
  }
}

}  // namespace
}  // namespace pf
