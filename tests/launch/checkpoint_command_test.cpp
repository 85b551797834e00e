// `pentafold checkpoint` as people start it, on checkpoints of two parts.
#include "launch/checkpoint_command.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include "core/backend.h"
#include "core/device.h"
#include "launch/checkpoint_values.h"
#include "parallel/checkpoint_files.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

constexpr const char* up = "weights/layers.0.mlp.up";
constexpr const char* up_moment = "optimizer/first_moment/layers.0.mlp.up";
constexpr const char* norm = "weights/layers.0.norm";

struct Values {
  Shape shape;
  std::vector<float> values;
};
using Tensors = std::map<std::string, Values>;

class CheckpointCommandTest : public testing::Test {
 protected:
  // Of each tensor the first part has the first third.
  void save(const std::string& folder, std::int64_t step, const Tensors& saved,
            const Overrides& overrides = {}) {
    const std::string path = here.path(folder);
    std::filesystem::create_directories(path);
    std::vector<PartFile> parts;
    for (const int part : {0, 1}) {
      std::vector<SavedPiece> pieces;
      for (const auto& [name, tensor] : saved) {
        const std::int64_t size = tensor.shape.size(), cut = size / 3;
        pieces.push_back(piece(name, tensor, part == 0 ? 0 : cut, part == 0 ? cut : size));
      }
      parts.push_back(write_part(path, part, pieces, std::atomic<bool>(false)));
    }
    CheckpointFacts facts;
    facts.counts = {{"step", step}, {"samples", 8 * step}, {"tokens", 256 * step}};
    facts.texts = {{"config", to_yaml(parse_config(small_run, "run.yaml", overrides))},
                   {"program", "0.1.0"}};
    facts.lists = {{"losses", std::vector<double>(std::size_t(step), 2.0)}};
    write_master(path, facts, parts);
  }

  SavedPiece piece(const std::string& name, const Values& tensor, std::int64_t begin,
                   std::int64_t end) {
    const Tensor data = Tensor::empty({end - begin}, DType::f32, device);
    std::copy(tensor.values.begin() + begin, tensor.values.begin() + end, data.data<float>());
    return {name, tensor.shape, {{}, tensor.shape}, begin, end, data};
  }

  Outcome checkpoint(const std::string& arguments) const {
    return in_shell(here, "$p checkpoint " + arguments);
  }

  // One byte is another.
  void damage(const std::string& file, std::size_t at) const {
    std::string bytes = here.read(file);
    bytes.at(at) ^= 1;
    here.write(file, bytes);
  }

  Device device{make_cpu_backend(1)};
  TemporaryFolder here;
  Tensors tensors{{up, {{2, 3}, {1, -2, 3, 0, 0.5, 8}}},
                  {up_moment, {{2, 3}, {0, 0, 0, 0, 0, 1}}},
                  {norm, {{3}, {1, 1, 1}}}};
};

TEST_F(CheckpointCommandTest, ListHasALineForEachCheckpointOldestFirst) {
  for (const std::int64_t step : {50, 100})
    save("runs/a/checkpoints/" + checkpoint_name(step), step, tensors,
         {"parallel={ranks: 4, tp: 2, zero: 1}"});
  const Outcome listed = checkpoint("list runs/a");
  EXPECT_EQ(listed.code, 0) << listed.err;
  const std::size_t first = listed.out.find("step-00000050            50      400    12.8k");
  const std::size_t second = listed.out.find("step-00000100           100      800    25.6k");
  EXPECT_LT(first, second) << listed.out;
  EXPECT_NE(second, std::string::npos) << listed.out;
  EXPECT_TRUE(contains(listed.out, "4 ranks (tp 2, dp 2, zero 1)\n")) << listed.out;
  EXPECT_EQ(checkpoint("list runs/a/checkpoints/").out, listed.out);
}

TEST_F(CheckpointCommandTest, ListShowsWhatIsDamagedAtAGlance) {
  save("runs/a/checkpoints/step-00000050", 50, tensors);
  save("runs/a/checkpoints/step-00000100", 100, tensors);
  std::filesystem::resize_file(here.path("runs/a/checkpoints/step-00000050/part-00001.h5"), 100);
  const Outcome listed = checkpoint("list runs/a");
  EXPECT_EQ(listed.code, 0) << listed.err;
  EXPECT_TRUE(contains(listed.out, "step-00000050     damaged: ")) << listed.out;
  EXPECT_TRUE(contains(listed.out, "part-00001.h5: ")) << listed.out;
  EXPECT_TRUE(contains(listed.out, "step-00000100           100")) << listed.out;
}

TEST_F(CheckpointCommandTest, ShowSaysFactsPartsAndTensorsByKind) {
  save("step-00000050", 50, tensors, {"run.precision=f32"});
  const Outcome shown = checkpoint("show step-00000050");
  EXPECT_EQ(shown.code, 0) << shown.err;
  for (const char* line :
       {"  step              50\n", "  tokens            12.8k\n", "  program           0.1.0\n",
        "  layout            1 rank (dp 1)\n", "  precision         f32\n", "  part-00001.h5 ",
        "weights                          2         9        36 B\n",
        "optimizer/first_moment           1         6        24 B\n",
        "  weights/layers.0.mlp.up                 f32  [2, 3]                  24 B\n"})
    EXPECT_TRUE(contains(shown.out, line)) << line << "not in\n" << shown.out;
}

TEST_F(CheckpointCommandTest, ShowOfTensorsHasNumbersAboutTheirValues) {
  tensors[norm].values[1] = std::numeric_limits<float>::quiet_NaN();
  save("step-00000050", 50, tensors);
  const Outcome shown = checkpoint("show step-00000050 mlp.up");
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_TRUE(contains(shown.out,
                       "weights/layers.0.mlp.up                 f32   [2, 3]                     "
                       "-2          8       1.75      8.846       0\n"))
      << shown.out;
  EXPECT_TRUE(contains(shown.out, up_moment)) << shown.out;
  EXPECT_FALSE(contains(shown.out, norm)) << shown.out;
  const Outcome one = checkpoint("show step-00000050 'weights/*norm'");
  EXPECT_TRUE(contains(one.out, "1          1          1      1.414       1\n")) << one.out;
}

TEST_F(CheckpointCommandTest, StatisticsAreOfAllBlocksOfALargeTensor) {
  Values large{{3, 200'001}, std::vector<float>(600'003)};
  for (std::size_t i = 0; i < large.values.size(); ++i) large.values[i] = float(i % 1001) - 500;
  large.values.back() = 7000;
  save("step-00000050", 50, {{up, large}});
  const Checkpoint checkpoint(here.path("step-00000050"));
  const ValueStatistics found = statistics_of(checkpoint, *checkpoint.find(up));
  const double sum = std::accumulate(large.values.begin(), large.values.end(), 0.0);
  const double squares =
      std::inner_product(large.values.begin(), large.values.end(), large.values.begin(), 0.0);
  EXPECT_EQ(found.min, -500);
  EXPECT_EQ(found.max, 7000);
  EXPECT_NEAR(found.mean, sum / 600'003, 1e-9);
  EXPECT_NEAR(found.norm, std::sqrt(squares), 1e-6);
  EXPECT_EQ(found.nan, 0);
}

TEST_F(CheckpointCommandTest, VerifyReadsAllBytesAndNamesWhatIsDamaged) {
  save("runs/a/checkpoints/step-00000050", 50, tensors);
  save("runs/a/checkpoints/step-00000100", 100, tensors);
  const Outcome whole = checkpoint("verify runs/a");
  EXPECT_EQ(whole.code, 0);
  EXPECT_TRUE(contains(whole.out, "runs/a/checkpoints/step-00000050: whole, ")) << whole.out;
  EXPECT_TRUE(contains(whole.out, " in 2 parts\n")) << whole.out;
  for (const char* part : {"part-00000.h5", "part-00001.h5"}) {
    const std::string file = std::string("runs/a/checkpoints/step-00000100/") + part;
    damage(file, here.read(file).size() / 2);
  }
  const Outcome damaged = checkpoint("verify runs/a");
  EXPECT_EQ(damaged.code, 1);
  EXPECT_TRUE(contains(damaged.out, "step-00000050: whole, ")) << damaged.out;
  EXPECT_TRUE(contains(damaged.out, "runs/a/checkpoints/step-00000100/part-00000.h5: "))
      << damaged.out;
  EXPECT_TRUE(contains(damaged.out, "runs/a/checkpoints/step-00000100/part-00001.h5: "))
      << damaged.out;
  EXPECT_EQ(checkpoint("verify runs/a/checkpoints/step-00000050").code, 0);
  EXPECT_EQ(checkpoint("show runs/a mlp").code, 1) << "the newest is damaged";
}

TEST_F(CheckpointCommandTest, DiffOfEqualCheckpointsIsZero) {
  tensors[norm].values[1] = std::numeric_limits<float>::quiet_NaN();
  save("a", 50, tensors);
  save("b", 50, tensors, {"train.steps=11"});
  const Outcome same = checkpoint("diff a b");
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(same.out,
            "A: a\nB: b\nconfiguration\n  train.steps: 10 and 11\n"
            "equal: step 50; 3 tensors equal bit by bit\n");
}

TEST_F(CheckpointCommandTest, DiffSaysHowFarTensorsAreApart) {
  save("a", 50, tensors);
  tensors[up].values = {1, -2, 3, 1, 0.5, 10};
  tensors[up_moment].values[0] = -0.0F;  // another bit, the same number
  tensors["weights/more"] = {{2}, {1, 2}};
  tensors[norm] = {{2}, {1, 1}};
  save("b", 60, tensors);
  const Outcome other = checkpoint("diff a b");
  EXPECT_EQ(other.code, 1) << other.err;
  for (const char* line :
       {"  step: 50 and 60\n", "  losses: 50 values and 60 values\n",
        "  weights/layers.0.mlp.up: 2 of 6 elements differ, by 0.2 at most\n",
        "  optimizer/first_moment/layers.0.mlp.up: 1 of 6 elements differ, by 0 at most\n",
        "  weights/layers.0.norm: f32 [3] and f32 [2]\n", "  weights/more: only in B\n",
        "different: steps 50 and 60; 0 tensors equal bit by bit, 3 differ, most "
        "weights/layers.0.mlp.up by 0.2, 1 in one alone\n"})
    EXPECT_TRUE(contains(other.out, line)) << line << "not in\n" << other.out;
}

TEST_F(CheckpointCommandTest, DiffOfWeightsLeavesTheOptimizerOut) {
  save("runs/a/checkpoints/step-00000040", 40, {{up, {{1}, {7}}}});
  save("runs/a/checkpoints/step-00000050", 50, tensors);
  tensors[up_moment].values[0] = 9;
  save("b", 50, tensors);
  EXPECT_EQ(checkpoint("diff runs/a b").code, 1);
  const Outcome weights = checkpoint("diff runs/a b --weights");
  EXPECT_EQ(weights.code, 0) << weights.out << weights.err;
  EXPECT_TRUE(contains(weights.out, "A: runs/a/checkpoints/step-00000050\n")) << weights.out;
  EXPECT_TRUE(contains(weights.out, "equal: step 50; 2 tensors equal bit by bit\n")) << weights.out;
}

TEST_F(CheckpointCommandTest, DistanceOfANumberFromNoneIsEndless) {
  save("a", 50, tensors);
  tensors[up].values[0] = std::numeric_limits<float>::quiet_NaN();
  save("b", 50, tensors);
  EXPECT_TRUE(contains(checkpoint("diff a b").out, "1 of 6 elements differ, by inf at most\n"));
}

TEST_F(CheckpointCommandTest, WhatIsNoCheckpointIsWrongInput) {
  here.write("file", "text");
  std::filesystem::create_directories(here.path("runs/a/checkpoints/step-00000050.writing"));
  save("step-00000050", 50, tensors);
  const std::map<std::string, std::string> wanted{
      {"list", "checkpoint list: found 0 arguments, wanted a RUN, like runs/quickstart"},
      {"lst runs/a", "checkpoint: found 'lst', wanted list, show, verify or diff"},
      {"list runs/none", "runs/none: no such folder\n"},
      {"verify file", "file: this is a file, wanted the folder of a run or of a checkpoint\n"},
      {"show runs/a", "runs/a: no checkpoint, and none in it"},
      {"show runs/a/checkpoints/step-00000050.writing",
       "runs/a/checkpoints/step-00000050.writing: only part of a checkpoint"},
      {"show step-00000050 mpl", "step-00000050: found no tensor 'mpl'; "},
      {"diff step-00000050", "checkpoint diff: found 1 argument, wanted two"},
      {"list step-00000050 --weights", "checkpoint list: --weights is an option of diff"}};
  for (const auto& [arguments, message] : wanted) {
    const Outcome outcome = checkpoint(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_TRUE(outcome.err.starts_with("pentafold: " + message)) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  }
}

TEST_F(CheckpointCommandTest, ADamagedOneIsNamedInOneLine) {
  save("step-00000050", 50, tensors);
  damage("step-00000050/checkpoint.h5", 200);
  for (const char* arguments : {"show step-00000050", "diff step-00000050 step-00000050"}) {
    const Outcome outcome = checkpoint(arguments);
    EXPECT_EQ(outcome.code, 1) << arguments;
    EXPECT_TRUE(contains(outcome.err, "step-00000050/checkpoint.h5: ")) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  }
  std::filesystem::remove(here.path("step-00000050/checksums.xxh128"));
  EXPECT_TRUE(contains(checkpoint("show step-00000050").err, "checksums.xxh128"));
}

}  // namespace
}  // namespace pf
