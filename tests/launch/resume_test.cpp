// Runs that stop and go on: by the program.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "parallel/checkpoint_files.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

// What a checkpoint has, as bytes.
std::map<std::string, std::vector<double>> tensors_of(const std::string& folder) {
  const Checkpoint checkpoint(folder);
  for (int part = 0; part < checkpoint.parts(); ++part) checkpoint.verify(part);
  Device device(make_cpu_backend(1));
  std::map<std::string, std::vector<double>> all;
  for (const SavedTensor& tensor : checkpoint.tensors()) {
    const Tensor x = Tensor::empty({tensor.shape.size()}, tensor.type, device);
    checkpoint.read(tensor.name, tensor.shape, {{}, tensor.shape}, x);
    all[tensor.name] = tensor.type == DType::f32 ? [&] {
      const std::vector<float> values = x.to_vector<float>();
      return std::vector<double>(values.begin(), values.end());
    }()
                                                 : x.to_vector<double>();
  }
  return all;
}

class ResumedRun : public testing::Test {
 protected:
  void SetUp() override {
    write_small_run(here);
    here.write("run.yaml", small_run);
  }

  Outcome train(const std::string& name, const std::string& arguments) {
    return in_shell(
        here, "$p train run.yaml train.sample_bytes=0 optimizer.decay=constant run.name=" + name +
                  " " + arguments);
  }
  // The numbers of each step, as they are written.
  std::vector<std::string> steps(const std::string& name) {
    std::vector<std::string> all;
    std::istringstream lines(here.read("runs/" + name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json step = nlohmann::json::parse(line);
      std::string text;
      for (const char* key :
           {"step", "heldout", "loss", "balance_loss", "z_loss", "grad_norm", "lr", "tokens"})
        if (step.contains(key)) text += step[key].dump() + " ";
      all.push_back(text);
    }
    return all;
  }
  std::string folder_of(const std::string& name, std::int64_t step) {
    return here.path("runs/" + name + "/checkpoints/" + checkpoint_name(step));
  }

  void expect_the_same_as_uninterrupted(const std::string& arguments) {
    SCOPED_TRACE(arguments);
    ++runs;
    const std::string whole = "whole" + std::to_string(runs), cut = "cut" + std::to_string(runs);
    const std::string all = arguments + " train.evaluate_every=2 checkpoint.every=2";
    ASSERT_EQ(train(whole, all + " train.steps=5").code, 0) << here.read("err");
    ASSERT_EQ(train(cut, all + " train.steps=3").code, 0) << here.read("err");
    const Outcome resumed = train(cut, all + " train.steps=5");
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_TRUE(contains(resumed.out, "goes on from step 3: runs/" + cut)) << resumed.out;
    // The shorter run was evaluated at its end.
    std::vector<std::string> found = steps(cut);
    ASSERT_EQ(found.size(), 9u);
    found.erase(found.begin() + 4);
    EXPECT_EQ(found, steps(whole));
    EXPECT_EQ(tensors_of(folder_of(cut, 5)), tensors_of(folder_of(whole, 5)));
  }

  const TemporaryFolder here;
  int runs = 0;
};

constexpr const char* moe_with_bias =
    "'model.moe={experts: 8, top_k: 2, ffn: 32, bias_rate: 1e-3}' ";

TEST_F(ResumedRun, IsBitwiseTheUninterruptedOne) {
  expect_the_same_as_uninterrupted("");
  expect_the_same_as_uninterrupted(std::string(moe_with_bias) + "run.precision=bf16");
  expect_the_same_as_uninterrupted("run.precision=f64 optimizer.kind=muon checkpoint.async=false");
  expect_the_same_as_uninterrupted("optimizer.kind=sgd optimizer.momentum=0.9");
  expect_the_same_as_uninterrupted("optimizer.kind=sgd optimizer.momentum=0");
  expect_the_same_as_uninterrupted("optimizer.offload=. 'train.lora={rank: 2}'");
  expect_the_same_as_uninterrupted("'train.ramp={start: 4, by: 2, every: 2}'");
}

TEST_F(ResumedRun, IsBitwiseTheUninterruptedOneOnManyRanks) {
  const std::string moe = moe_with_bias;
  expect_the_same_as_uninterrupted(moe + "'parallel={ranks: 4, tp: 2, ep: 4}' model.kv_heads=1");
  expect_the_same_as_uninterrupted(moe + "'parallel={ranks: 4, cp: 2, ep: 2, zero: 1}'");
  expect_the_same_as_uninterrupted(moe + "'parallel={ranks: 4, zero: 2, zero_shard: 2, ep: 2}'");
  expect_the_same_as_uninterrupted(moe + "'parallel={ranks: 4, pp: 2, ep: 2, zero: 3}'");
  expect_the_same_as_uninterrupted(
      "'parallel={ranks: 4, pp: 2, zero: 1}' model.tied=true optimizer.kind=muon");
}

TEST_F(ResumedRun, AgreesUnderAnotherLayout) {
  const std::string model = std::string(moe_with_bias) +
                            "model.kv_heads=2 run.precision=f64 model.tied=true "
                            "train.clip=0.1 checkpoint.every=3 ";
  ASSERT_EQ(train("one", model + "train.steps=6").code, 0) << here.read("err");
  const auto one = tensors_of(folder_of("one", 6));
  std::vector<const char*> layouts = {
      "'parallel={ranks: 4, tp: 2, ep: 2, cp: 2}'", "'parallel={ranks: 4, pp: 2, ep: 2, zero: 1}'",
      "'parallel={ranks: 4, tp: 2, etp: 2, ep: 2, zero: 3}'",
      "'parallel={ranks: 2, pp: 2, chunks: 2, schedule: zbv}'", "'parallel={ranks: 1}'"};
  ASSERT_EQ(train("cut", model + layouts.back() + " train.steps=1").code, 0) << here.read("err");
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    SCOPED_TRACE(layouts[i]);
    const std::string until = " train.steps=" + std::to_string(i + 2);
    ASSERT_EQ(train("cut", model + layouts[i] + until).code, 0) << here.read("err");
  }
  const auto cut = tensors_of(folder_of("cut", 6));
  ASSERT_EQ(cut.size(), one.size());
  double largest = 0;
  for (const auto& [name, values] : one)
    if (name.starts_with("weights/"))
      for (const double x : values) largest = std::max(largest, std::abs(x));
  for (const auto& [name, values] : one) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(cut.contains(name));
    ASSERT_EQ(cut.at(name).size(), values.size());
    double distance = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      distance = std::max(distance, std::abs(values[i] - cut.at(name)[i]));
    EXPECT_LT(distance, 1e-9 * largest);
  }
}

TEST_F(ResumedRun, SaysThatAFinishedOneIs) {
  ASSERT_EQ(train("done", "train.steps=2").code, 0) << here.read("err");
  const std::string metrics = here.read("runs/done/metrics.jsonl");
  const Outcome again = train("done", "train.steps=2");
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(again.out,
            "done is finished: 2 of 2 steps, in runs/done/checkpoints/step-00000002; a larger "
            "train.steps goes on, run.resume=never begins anew\n");
  EXPECT_EQ(here.read("runs/done/metrics.jsonl"), metrics);
}

TEST_F(ResumedRun, DoesNotUseADamagedCheckpoint) {
  ASSERT_EQ(train("run", "train.steps=4 checkpoint.every=2").code, 0) << here.read("err");
  const std::string part = "runs/run/checkpoints/step-00000004/part-00000.h5";
  std::string bytes = here.read(part);
  bytes[bytes.size() / 2] ^= 1;
  here.write(part, bytes);
  const Outcome outcome = train("run", "train.steps=5 checkpoint.every=2");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "not used: " + part)) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "goes on from step 2: ")) << outcome.out;
  EXPECT_EQ(steps("run").size(), 5u + 1);

  here.write(part, bytes);
  here.write("runs/run/checkpoints/step-00000005/checkpoint.h5", "no HDF5");
  const Outcome none = train("run", "train.steps=6");
  EXPECT_EQ(none.code, 2);
  EXPECT_TRUE(contains(none.err, "run.resume=never")) << none.err;
}

TEST_F(ResumedRun, RefusesAnotherModel) {
  ASSERT_EQ(train("run", "train.steps=1").code, 0) << here.read("err");
  const Outcome outcome = train("run", "train.steps=2 model.ffn=96");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(contains(outcome.err, "model.ffn")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "128")) << outcome.err;
}

TEST_F(ResumedRun, BeginsFromTheCheckpointOfAnotherRun) {
  ASSERT_EQ(train("first", "train.steps=4 checkpoint.every=2").code, 0) << here.read("err");
  const Outcome outcome =
      train("second", "train.steps=4 run.resume=runs/first/checkpoints/step-00000002");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(tensors_of(folder_of("second", 4)), tensors_of(folder_of("first", 4)));
  EXPECT_EQ(steps("second")[0], steps("first")[2]);
}

TEST_F(ResumedRun, GoesOnAfterItsTimeLimit) {
  const Outcome limited = train("run", "train.steps=100000000 train.time_limit=3");
  EXPECT_EQ(limited.code, 75) << limited.err;
  EXPECT_TRUE(contains(limited.out, "train.time_limit")) << limited.out;
  const std::size_t before = steps("run").size();
  EXPECT_GT(before, 0u);
  const Outcome resumed =
      train("run", "train.steps=" + std::to_string(before + 1) + " train.time_limit=0");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(contains(resumed.out, "goes on from step " + std::to_string(before) + ":"))
      << resumed.out;
}

TEST_F(ResumedRun, IsNotLostBySignals) {
  for (const std::string signal : {"USR1", "TERM", "INT"}) {
    const Outcome outcome = in_shell(
        here, "$p train run.yaml train.sample_bytes=0 train.steps=100000000 run.name=" + signal +
                  " --ranks 2 & until grep -qs loss runs/" + signal +
                  "/metrics.jsonl; do sleep 0.05; done; kill -" + signal + " $!; wait $!");
    EXPECT_EQ(outcome.code, signal == "USR1" ? 138 : signal == "TERM" ? 143 : 130) << outcome.err;
    const auto last = std::int64_t(steps(signal).size());
    EXPECT_FALSE(tensors_of(folder_of(signal, last)).empty());
    EXPECT_EQ(checkpoints_in(here.path("runs/" + signal + "/checkpoints")).size(), 1u);
  }
}

TEST_F(ResumedRun, MakesTheEvaluationThatASignalLeftOut) {
  // Every step is evaluated but the one that a signal ends.
  const std::string run = "train.evaluate_every=1 ";
  ASSERT_EQ(in_shell(here, "$p train run.yaml train.sample_bytes=0 train.steps=100000000 " + run +
                               "& until grep -qs loss runs/run/metrics.jsonl; do sleep 0.05; done; "
                               "kill -TERM $!; wait $!")
                .code,
            143);
  const std::size_t before = steps("run").size();
  ASSERT_EQ(before % 2, 1u);
  const std::size_t step = (before + 1) / 2;
  const Outcome resumed = train("run", run + "train.steps=" + std::to_string(step + 1));
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  const std::vector<std::string> all = steps("run");
  ASSERT_EQ(all.size(), 2 * (step + 1));
  EXPECT_TRUE(all[before].starts_with(std::to_string(step) + " {\"english\"")) << all[before];
}

TEST_F(ResumedRun, LeavesAsManyCheckpointsAsAreKept) {
  ASSERT_EQ(train("run", "train.steps=7 checkpoint.every=2 checkpoint.keep=3").code, 0)
      << here.read("err");
  EXPECT_EQ(
      checkpoints_in(here.path("runs/run/checkpoints")),
      (std::vector<std::string>{folder_of("run", 7), folder_of("run", 6), folder_of("run", 4)}));
  ASSERT_EQ(train("none", "train.steps=2 checkpoint.every=0").code, 0) << here.read("err");
  EXPECT_TRUE(checkpoints_in(here.path("runs/none/checkpoints")).empty());
}

TEST_F(ResumedRun, FailsIfItsLastCheckpointCannotBeSaved) {
  const Outcome outcome =
      in_shell(here,
               "ulimit -f 100; $p train run.yaml train.sample_bytes=0 train.steps=4 run.name=run "
               "checkpoint.every=2");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_TRUE(contains(outcome.out, "no checkpoint of step 2: ")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "File too large")) << outcome.out;
  EXPECT_TRUE(contains(outcome.err, "the last checkpoint, of step 4, can't be saved: "))
      << outcome.err;
  EXPECT_TRUE(std::filesystem::is_empty(here.path("runs/run/checkpoints")));
}

}  // namespace
}  // namespace pf
