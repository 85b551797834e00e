#include "launch/metrics_cut.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/run_metrics.h"
#include "launch/staged_file.h"
#include "tests/launch/full_disk.h"
#include "tests/launch/reporting.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

std::string step_line(int step, const std::string& loss = "1") {
  return "{\"step\":" + std::to_string(step) + ",\"loss\":" + loss + ",\"tokens_per_s\":1}\n";
}

std::string evaluation_line(int step) {
  return "{\"step\":" + std::to_string(step) + ",\"heldout\":{\"a\":2.5}}\n";
}

std::string lines_of_steps(int first, int last) {
  std::string all;
  for (int step = first; step <= last; ++step) all += step_line(step);
  return all;
}

struct CutMetrics {
  std::string text, said;
};

CutMetrics after_cut(const std::string& text, int step) {
  const TemporaryFolder here;
  const std::string path = here.write("metrics.jsonl", text);
  std::string said = cut_metrics(path, step);
  EXPECT_EQ(said.find(path + ": lacks "), said.empty() ? std::string::npos : 0u) << said;
  if (!said.empty()) said = said.substr(path.size() + 2);
  return {here.read("metrics.jsonl"), said};
}

TEST(MetricsCut, LinesUpToTheStepStayAndItsEvaluationToo) {
  const std::string kept =
      lines_of_steps(1, 2) + evaluation_line(2) + step_line(3) + evaluation_line(3);
  for (const std::string& later :
       {std::string(), step_line(4), step_line(4) + evaluation_line(4)}) {
    const CutMetrics cut = after_cut(kept + later, 3);
    EXPECT_EQ(cut.text, kept);
    EXPECT_EQ(cut.said, "");
  }
}

TEST(MetricsCut, ATornLineGoesWhereverItIsTorn) {
  const std::string kept = lines_of_steps(1, 3), last = step_line(4);
  for (std::size_t length = 0; length < last.size(); ++length)
    EXPECT_EQ(after_cut(kept + last.substr(0, length), 4).text, kept) << length;
  EXPECT_EQ(after_cut(kept + last.substr(0, 20), 4).said, "lacks 1 of the first 4 steps: 4");
  // Also without the end of a step that stays.
  EXPECT_EQ(after_cut(lines_of_steps(1, 2) + step_line(3).substr(0, 25), 3).said,
            "lacks 1 of the first 3 steps: 3");
}

TEST(MetricsCut, WhatFollowsIsThereOnce) {
  const TemporaryFolder here;
  const std::string path = here.write("metrics.jsonl", lines_of_steps(1, 9));
  for (const int step : {7, 5, 5}) {
    cut_metrics(path, step);
    here.write("metrics.jsonl", here.read("metrics.jsonl") + lines_of_steps(step + 1, 9));
  }
  EXPECT_EQ(here.read("metrics.jsonl"), lines_of_steps(1, 9));
  EXPECT_EQ(read_metrics(path).loss.step, (std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST(MetricsCut, StepsThatAreMissingAreSaid) {
  EXPECT_EQ(after_cut("", 50).said, "lacks 50 of the first 50 steps: 1 to 50");
  EXPECT_EQ(after_cut(lines_of_steps(1, 30), 50).said, "lacks 20 of the first 50 steps: 31 to 50");
  EXPECT_EQ(after_cut(lines_of_steps(11, 50), 50).said, "lacks 10 of the first 50 steps: 1 to 10");
  EXPECT_EQ(after_cut(lines_of_steps(1, 4) + lines_of_steps(6, 8), 10).said,
            "lacks 3 of the first 10 steps: 5 and others");
}

TEST(MetricsCut, AFileThatWasDeletedIsNoErrorAndStaysAway) {
  const TemporaryFolder here;
  const std::string path = here.path("metrics.jsonl");
  EXPECT_EQ(cut_metrics(path, 3), path + ": lacks 3 of the first 3 steps: 1 to 3");
  EXPECT_FALSE(std::filesystem::exists(path));
}

// As a file system may leave where the machine failed, or an editor.
TEST(MetricsCut, WhatIsNoLineOfMetricsGoesAndTheRestStaysInItsOrder) {
  const std::string zeros(100, '\0');
  for (const std::string& foreign :
       {zeros + "\n", std::string("\n"), std::string("{}\n"), std::string("{\"step\":x}\n"),
        std::string("{\"step\":\n"), step_line(2), evaluation_line(1), step_line(9)}) {
    const CutMetrics cut =
        after_cut(lines_of_steps(1, 2) + evaluation_line(2) + foreign + lines_of_steps(3, 5), 4);
    EXPECT_EQ(cut.text, lines_of_steps(1, 2) + evaluation_line(2) + lines_of_steps(3, 4))
        << foreign;
    EXPECT_EQ(cut.said, "");
  }
}

// What stays was never written anew, so that a full disk can't take it either.
TEST(MetricsCut, UsuallyTheFileIsOnlyShortened) {
  const TemporaryFolder here;
  const std::string path = here.write("metrics.jsonl", lines_of_steps(1, 9));
  struct stat before {
  }, after{};
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  {
    const FullDisk full(0);
    cut_metrics(path, 4);
  }
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(here.read("metrics.jsonl"), lines_of_steps(1, 4));
}

TEST(MetricsCut, AFullDiskLeavesAllLinesWhereTheyMustBeWrittenAnew) {
  const TemporaryFolder here;
  const std::string text = lines_of_steps(1, 2) + "{}\n" + lines_of_steps(3, 5);
  const std::string path = here.write("metrics.jsonl", text);
  std::string error;
  {
    const FullDisk full(0);
    try {
      cut_metrics(path, 4);
    } catch (const WriteError& write_error) {
      error = write_error.what();
    }
  }
  EXPECT_EQ(error, path + ": can't be written: File too large");
  EXPECT_EQ(here.read("metrics.jsonl"), text);
}

TEST(MetricsCut, AFileThatCantBeReadIsAnError) {
  const TemporaryFolder here;
  std::filesystem::create_directory(here.path("metrics.jsonl"));
  try {
    cut_metrics(here.path("metrics.jsonl"), 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "metrics.jsonl: can't be ")) << error.what();
  }
}

}  // namespace
}  // namespace pf
