// What data become in training: by the program, on whole runs.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launch/token_files.h"
#include "tests/launch/index_files.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

class TrainingData : public testing::Test {
 protected:
  void SetUp() override { write_small_run(here); }
  // The losses and gradient norms of all steps.
  std::vector<double> numbers(const std::string& name, const std::string& arguments) {
    const Outcome outcome = in_shell(
        here, "$p train run.yaml run.precision=f64 train.steps=4 train.sample_bytes=0 run.name=" +
                  name + " " + arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    std::vector<double> numbers;
    std::istringstream lines(here.read("runs/" + name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json step = nlohmann::json::parse(line);
      if (!step.contains("loss")) continue;
      numbers.push_back(step["loss"]);
      numbers.push_back(step["grad_norm"]);
    }
    EXPECT_EQ(numbers.size(), 8u) << outcome.out;
    return numbers;
  }

  const TemporaryFolder here;
};

void expect_close(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-10 * std::abs(b[i])) << i;
}

TEST_F(TrainingData, AShorterLastMicroBatchCountsForWhatItHolds) {
  const std::string batch = "train.global_batch=7 ";
  const std::vector<double> whole = numbers("whole", batch + "train.micro_batch=7");
  expect_close(numbers("two", batch + "train.micro_batch=2 --ranks 2"), whole);
  expect_close(numbers("four", batch + "train.micro_batch=2 --ranks 4"), whole);
  expect_close(numbers("three", batch + "train.micro_batch=3"), whole);
  EXPECT_GT(std::abs(numbers("eight", "")[2] - whole[2]), 1e-6);
}

TEST_F(TrainingData, AShorterMicroBatchKeepsTheBalanceLossOfTheWholeBatch) {
  const std::string quoted =
      std::string("'") + with_moe + "' 'model.moe.balance={kind: global, weight: 1, group: 4}' ";
  const std::string batch = "train.global_batch=7 train.micro_batch=2 ";
  expect_close(numbers("two", quoted + batch + "--ranks 2"), numbers("one", quoted + batch));
}

TEST_F(TrainingData, ReplicasWithUnequallyManyTargetsEqualOne) {
  // In the second half of each document of 40 tokens, every third counts.
  std::vector<std::vector<int>> documents;
  std::string mask(mask_bytes(400 * 40), '\0');
  for (int d = 0; d < 400; ++d) {
    documents.emplace_back();
    for (int i = 0; i < 40; ++i) {
      documents.back().push_back((d * 31 + i * i) % 256);
      const int token = d * 40 + i;
      if (d % 3 != 0 && i >= 20 && i % 3 == 0) mask[std::size_t(token / 8)] |= char(1 << token % 8);
    }
  }
  write_index<std::uint8_t>(here, "a", 1, documents);
  here.write("a.json", to_json({.tokenizer = "bytes",
                                .vocabulary = 256,
                                .largest_id = 255,
                                .end_id = 12,
                                .documents = 400,
                                .tokens = 16000,
                                .has_mask = true}));
  here.write("a.mask", mask);
  const std::string data = "'data.sources=[{name: a, path: a}]' data.across_documents=false ";
  const std::vector<double> one = numbers("one", data);
  expect_close(numbers("four", data + "--ranks 4"), one);
  const Outcome outcome = in_shell(here, "cat runs/one/metrics.jsonl runs/four/metrics.jsonl");
  EXPECT_TRUE(contains(outcome.out, R"("heldout":{"a":)")) << outcome.out;
}

TEST_F(TrainingData, StoredTokensOfATextGiveItsLossesToTheBit) {
  const Outcome stored = in_shell(here,
                                  "$p data english.txt --output e && $p data german.txt "
                                  "--output g");
  ASSERT_EQ(stored.code, 0) << stored.err;
  const std::string options = " data.heldout_share=0 --ranks 2";
  EXPECT_EQ(numbers("stored",
                    "'data.sources=[{name: english, path: e}, {name: german, path: g}]'" + options),
            numbers("text", options));
}

TEST_F(TrainingData, PromptsAreReadAndNotLearned) {
  std::string lines;
  for (int i = 0; i < 600; ++i)
    lines += R"({"prompt": "What is )" + std::to_string(i) + R"(?", "answer": "It is )" +
             std::to_string(i * i) + ".\"}\n";
  here.write("a.jsonl", lines);
  const Outcome stored = in_shell(here, "$p data a.jsonl --output a");
  ASSERT_EQ(stored.code, 0) << stored.err;
  const std::string options = " 'data.sources=[{name: a, path: a}]' data.across_documents=false";
  const std::vector<double> masked = numbers("masked", options);
  EXPECT_TRUE(contains(here.read("a.json"), R"("mask":true)")) << here.read("a.json");
  std::string unmasked = here.read("a.json");
  unmasked.replace(unmasked.find("true"), 4, "false");
  here.write("a.json", unmasked);
  EXPECT_GT(std::abs(numbers("all", options)[6] - masked[6]), 1e-4);
}

TEST_F(TrainingData, AnIdBeyondTheVocabularyEndsAllRanksWithItsPlace) {
  auto documents = counting_documents(3000, 256);
  documents[1500][0] = 300;
  write_index<std::uint16_t>(here, "a", 8, documents);
  const Outcome outcome = in_shell(here,
                                   "$p train run.yaml train.steps=200 --ranks 2 "
                                   "'data.sources=[{name: a, path: a}]' data.heldout_share=0");
  EXPECT_EQ(outcome.code, 1) << outcome.out;
  EXPECT_TRUE(contains(outcome.err, "a.bin: token ")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "(in document 1500) has id 300")) << outcome.err;
}

}  // namespace
}  // namespace pf
