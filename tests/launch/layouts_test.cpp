// Layouts of the ranks in training: by the program, on whole runs.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "tests/launch/shell.h"

namespace pf {
namespace {

struct Told {
  std::vector<double> numbers;  // losses, gradient norms, held-out bits, and what experts do
  std::string samples;
};

// All that are in it, in order.
void add_numbers(const nlohmann::json& from, std::vector<double>& numbers) {
  if (from.is_number()) numbers.push_back(from);
  if (from.is_structured())
    for (const auto& part : from) add_numbers(part, numbers);
}

class LayoutsInTraining : public testing::Test {
 protected:
  void SetUp() override { write_small_run(here); }
  Told train(const std::string& arguments) {
    const Outcome outcome =
        in_shell(here,
                 "$p train run.yaml run.precision=f64 train.steps=3 train.sample_bytes=30 "
                 "checkpoint.every=0 " +
                     arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    Told told;
    std::istringstream lines(here.read("runs/run/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json step = nlohmann::json::parse(line);
      for (const char* key : {"loss", "balance_loss", "z_loss", "grad_norm"})
        if (step.contains(key)) told.numbers.push_back(step[key]);
      if (step.contains("heldout"))
        for (const auto& [domain, bits] : step["heldout"].items()) told.numbers.push_back(bits);
      for (const auto& layer : step.value("experts", nlohmann::json::array()))
        add_numbers(layer, told.numbers);
    }
    const std::size_t begin = outcome.out.find("samples ("),
                      end = outcome.out.find("\nexpert load", begin);
    told.samples = begin == std::string::npos ? "" : outcome.out.substr(begin, end - begin);
    return told;
  }

  void expect_one_rank(const std::string& heads, const std::vector<const char*>& layouts) {
    const std::string model =
        std::string("'") + with_moe + "' " + heads +
        " model.vocabulary=259 train.global_batch=7 train.clip=0.1 model.moe.z_loss=1e-3 "
        "model.moe.balance.group=2 model.moe.bias_rate=1e-3 ";
    const Told one = train(model);
    EXPECT_GT(one.numbers.size(), 12u);
    EXPECT_GT(one.samples.size(), 60u);
    for (const char* layout : layouts) {
      SCOPED_TRACE(layout);
      const Told cut = train(model + layout);
      ASSERT_EQ(cut.numbers.size(), one.numbers.size());
      for (std::size_t i = 0; i < one.numbers.size(); ++i)
        EXPECT_NEAR(cut.numbers[i], one.numbers[i], 1e-10 * std::abs(one.numbers[i])) << i;
      EXPECT_EQ(cut.samples, one.samples);
    }
  }

  const TemporaryFolder here;
};

TEST_F(LayoutsInTraining, GiveTheNumbersAndTheTextOfOneRank) {
  expect_one_rank(
      "model.kv_heads=1",
      {"'parallel={ranks: 4, tp: 2, cp: 2, ep: 4}'", "'parallel={ranks: 4, cp: 2, etp: 2, ep: 2}'",
       "'parallel={ranks: 4, cp: 4, ep: 2, cp_method: ulysses}'",
       "'parallel={ranks: 4, cp: 4, ep: 4, cp_method: ring}'",
       "'parallel={ranks: 4, tp: 2, cp: 2, cp_method: ring}'",
       "'parallel={ranks: 4, tp: 4, etp: 4}'",
       "'parallel={ranks: 4, tp: 2, etp: 2, ep: 2, dispatcher: all_gather}'",
       "'parallel={ranks: 4, tp: 2, ep: 4, zero: 1}'", "'parallel={ranks: 4, tp: 2, ep: 2, pp: 2}'",
       "'parallel={ranks: 4, cp: 2, ep: 2, pp: 2, schedule: zbh1, zero: 3}' train.recompute=full",
       "'parallel={ranks: 2, pp: 2, schedule: gpipe, stage_layers: \"3, 1\"}'"});
  expect_one_rank("model.kv_heads=2",
                  {"'parallel={ranks: 4, cp: 4, ep: 2, cp_method: two_level}'"});
}

TEST_F(LayoutsInTraining, TellWhatOneRankDrops) {
  const std::string capacity = "'model.moe.capacity={factor: 0.5, block: 4}' ";
  expect_one_rank(capacity + "model.kv_heads=2",
                  {"'parallel={ranks: 4, tp: 2, cp: 2, ep: 4}'", "'parallel={ranks: 2, ep: 2}'"});
  double least = 1, most = 0;
  std::istringstream lines(here.read("runs/run/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    for (const auto& layer : nlohmann::json::parse(line).value("experts", nlohmann::json::array()))
      if (layer.contains("dropped")) {
        least = std::min(least, double(layer["dropped"]));
        most = std::max(most, double(layer["dropped"]));
      }
  EXPECT_GT(least, 0);
  EXPECT_LT(most, 1);
}

}  // namespace
}  // namespace pf
