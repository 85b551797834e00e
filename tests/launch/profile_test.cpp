#include "launch/profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/launch/shell.h"

namespace pf {
namespace {

using Json = nlohmann::json;

TEST(Profile, StepsAreOneOrARange) {
  const auto steps = [](const std::string& text, std::int64_t all, std::int64_t before = 0) {
    const ProfiledSteps found = profiled_steps(text, all, before);
    return std::to_string(found.first) + '-' + std::to_string(found.last);
  };
  EXPECT_EQ(steps("4", 9), "4-4");
  EXPECT_EQ(steps("2-9", 9), "2-9");
  EXPECT_EQ(steps("auto", 100), "3-5");
  EXPECT_EQ(steps("auto", 4), "2-4");
  EXPECT_EQ(steps("auto", 1), "1-1");
  EXPECT_EQ(steps("auto", 100, 50), "53-55");
  EXPECT_EQ(steps("auto", 52, 50), "51-52");
  EXPECT_EQ(steps("51", 52, 50), "51-51");
  EXPECT_THROW(profiled_steps("50-51", 52, 50), Error);
  for (const char* wrong :
       {"", "x", "3-", "-3", "3-5x", "5-3", "0", "3-10", "99999999999999999999"})
    EXPECT_THROW(profiled_steps(wrong, 9), Error) << wrong;
  EXPECT_EQ(error_of([] { profiled_steps("3-10", 9); }),
            "--profile=3-10: wanted steps from 1 to train.steps=9, the first one first");
}

class ProfiledRun : public testing::Test {
 protected:
  void SetUp() override { write_small_run(here); }
  TemporaryFolder here;
};

// Each time line's spans, in order of their begins, lie inside each other or apart.
void expect_nested(const std::vector<Json>& spans) {
  constexpr double rounding = 0.0011;  // microseconds
  struct Open {
    double begin, end;
  };
  std::vector<Open> sorted, open;
  for (const Json& span : spans) {
    const double begin = span["ts"], length = span["dur"];
    sorted.push_back({begin, begin + length});
  }
  std::stable_sort(sorted.begin(), sorted.end(), [](const Open& a, const Open& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  for (const Open& span : sorted) {
    while (!open.empty() && open.back().end <= span.begin + rounding) open.pop_back();
    if (!open.empty()) {
      EXPECT_LE(span.end, open.back().end + rounding);
    }
    open.push_back(span);
  }
}

TEST_F(ProfiledRun, ShowsStepsLayersKernelsCallsAndMemoryOfEachRank) {
  const Outcome outcome = in_shell(
      here, "$p train run.yaml train.steps=4 train.sample_bytes=0 --ranks 2 --profile=2-3");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "profile: runs/run/trace.json, for https://ui.perfetto.dev\n"))
      << outcome.out;
  const Json trace = Json::parse(here.read("runs/run/trace.json"), nullptr, false);
  ASSERT_TRUE(trace.is_object());
  for (const int process : {1, 2}) {
    std::vector<Json> spans;
    std::set<std::string> names;
    std::map<std::string, int> ends;
    int counters = 0;
    for (const Json& event : trace["traceEvents"]) {
      if (event["pid"] != process) continue;
      const std::string kind = event["ph"];
      if (kind != "M") names.insert(event["name"]);
      if (kind == "X") spans.push_back(event);
      if (kind == "C") ++counters;
      if (kind == "b") {
        EXPECT_GT(event["args"]["bytes"], 0) << event;
        EXPECT_EQ(event["args"]["ranks"], "0, 1");
      }
      if (kind == "b" || kind == "e") ++ends[event["id"]];
    }
    for (const char* name : {"step 2", "step 3", "forward", "backward", "optimizer",
                             "forward of layers.1", "backward of layers.1", "product",
                             "product_weight_gradient", "adamw", "wait", "bytes in tensors"})
      EXPECT_TRUE(names.contains(name)) << name;
    for (const char* name : {"step 1", "step 4", "evaluation"})
      EXPECT_FALSE(names.contains(name)) << name;
    EXPECT_TRUE(std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return name.starts_with("scatter_gradients on ");
    }));
    EXPECT_GT(counters, 10);
    for (const auto& [id, count] : ends) EXPECT_EQ(count, 2) << id;
    expect_nested(spans);
  }
}

TEST_F(ProfiledRun, ThatEndsEarlierThanItsStepsIsRefused) {
  const Outcome outcome = in_shell(here, "$p train run.yaml train.steps=4 --profile=7");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err,
            "pentafold: --profile=7: wanted steps from 1 to train.steps=4, the first one first\n");
  EXPECT_EQ(here.read("runs/run/config.yaml"), "");
}

}  // namespace
}  // namespace pf
