// What a reporter writes to metrics.jsonl.
#include "launch/metrics_log.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/launch/reporting.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

std::string error_of_reporting(const std::string& folder) {
  try {
    Reporter(folder, 1).step(a_step(1));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Metrics, AreOneObjectAStepThatReadsBackTheSameDoubles) {
  const Written run = written(2, [](Reporter& reporter) {
    reporter.step(a_step(1));
    reporter.step(a_step(2));
  });
  const std::vector<std::string> lines = lines_of(run.metrics);
  ASSERT_EQ(lines.size(), 2u);
  const YAML::Node second = YAML::Load(lines[1]);  // JSON is YAML
  EXPECT_EQ(second["step"].as<int>(), 2);
  EXPECT_EQ(second["loss"].as<double>(), 5.3 / 2);
  EXPECT_EQ(second["balance_loss"].as<double>(), 0.1);
  EXPECT_EQ(second["z_loss"].as<double>(), 1e-7);
  EXPECT_EQ(second["grad_norm"].as<double>(), 1.0 / 3);
  EXPECT_EQ(second["lr"].as<double>(), 2e-3);
  EXPECT_EQ(second["tokens"].as<int>(), 8192);
  EXPECT_EQ(second["tokens_per_s"].as<double>(), 12345.6);
  EXPECT_EQ(second["expert_load"].as<double>(), 1.25);
  EXPECT_EQ(second["skipped"].as<std::string>(), "false");
  EXPECT_TRUE(contains(lines[1], R"("grad_norm":0.33333333333333331,)"));
}

TEST(Metrics, HaveNullForWhatIsNotFinite) {
  const Written run = written(1, [](Reporter& reporter) {
    StepReport report = a_step(1);
    report.loss = NAN;
    report.grad_norm = INFINITY;
    report.is_skipped = true;
    reporter.step(report);
  });
  EXPECT_TRUE(contains(run.metrics, R"("loss":null,)")) << run.metrics;
  EXPECT_TRUE(contains(run.metrics, R"("grad_norm":null,)")) << run.metrics;
  EXPECT_TRUE(contains(run.metrics, R"("skipped":true})")) << run.metrics;
  EXPECT_TRUE(contains(run.shown, "  skipped: loss or gradients not finite\n")) << run.shown;
}

TEST(Metrics, AnEvaluationIsAnObjectOfDomains) {
  const Written run = written(9, [](Reporter& reporter) {
    reporter.evaluation(7, {.domains = {{"english", 2.5}, {"C \"++\"", 1.5}}});
  });
  EXPECT_EQ(run.metrics, R"({"step":7,"heldout":{"english":2.5,"C \"++\"":1.5}})"
                         "\n");
  EXPECT_EQ(run.shown,
            "held-out after step 7: 2.0000 bits per byte (english 2.5000, C \"++\" 1.5000)\n");
}

TEST(Metrics, TokensThatAreNotBytesHaveTheirOwnMap) {
  const Written run = written(9, [](Reporter& reporter) {
    reporter.evaluation(7, {.domains = {{"text", 2.5}, {"code", 9, true}}});
  });
  EXPECT_EQ(run.metrics, R"({"step":7,"heldout":{"text":2.5},"heldout_per_token":{"code":9}})"
                         "\n");
  EXPECT_EQ(run.shown,
            "held-out after step 7: 2.5000 bits per byte (text 2.5000)\n"
            "held-out after step 7: 9.0000 bits per token (code 9.0000)\n");
}

TEST(Metrics, TellWhichExpertsADomainChooses) {
  const Written run = written(9, [](Reporter& reporter) { reporter.evaluation(7, specialised()); });
  const YAML::Node experts = YAML::Load(run.metrics)["experts"];
  ASSERT_EQ(experts.size(), 2u) << run.metrics;
  EXPECT_EQ(experts[0]["layer"].as<std::string>(), "layers.1");
  EXPECT_EQ(experts[1]["layer"].as<std::string>(), "layers.3");
  const YAML::Node domains = experts[0]["domains"];
  ASSERT_EQ(domains.size(), 3u);
  EXPECT_EQ(domains["code"]["largest"].as<double>(), 0.875);
  EXPECT_EQ(domains["english"]["score"].as<double>(), 0.75);
  EXPECT_EQ(domains["c\""]["share"].as<std::vector<double>>(),
            (std::vector<double>{0.25, 0.25, 0.25, 0.25}));
  EXPECT_TRUE(
      contains(run.metrics, R"("overlap":{"english":{"c\"":0.5,"code":0},"c\"":{"code":0.5}}})"))
      << run.metrics;
  EXPECT_TRUE(
      contains(run.metrics, R"("overlap":{"english":{"c\"":1,"code":0.5},"c\"":{"code":0.5}}})"));
}

TEST(Metrics, TellWhatACapacityDropped) {
  const Written run = written(1, [](Reporter& reporter) {
    StepReport report = a_step(1);
    report.experts = {{"layers.1", {0.5, 0.5}, 0.25}, {"layers.2", {0.5, 0.5}}};
    reporter.step(report);
  });
  EXPECT_TRUE(contains(run.metrics, R"("layer":"layers.1","max_mean":1,"dead":0,"dropped":0.25,)"))
      << run.metrics;
  EXPECT_EQ(count(run.metrics, "dropped"), 1u) << run.metrics;
}

TEST(Metrics, AreInTheFileAfterEachStep) {
  const TemporaryFolder folder;
  const File out = opened(std::fopen("/dev/null", "w"));
  Reporter reporter(folder.path(), 2, out.get());
  reporter.step(a_step(1));
  EXPECT_EQ(lines_of(folder.read("metrics.jsonl")).size(), 1u);
  reporter.step(a_step(2));
  EXPECT_EQ(lines_of(folder.read("metrics.jsonl")).size(), 2u);
}

TEST(Metrics, AreAppended) {
  const TemporaryFolder folder;
  folder.write("metrics.jsonl", "{}\n");
  const File out = opened(std::fopen("/dev/null", "w"));
  Reporter(folder.path(), 1, out.get()).step(a_step(1));
  EXPECT_EQ(lines_of(folder.read("metrics.jsonl")).size(), 2u);
}

TEST(Metrics, OfARunThatGoesOnFollowThoseOfTheStepsBefore) {
  const TemporaryFolder folder;
  const File out = opened(std::fopen(folder.path("shown").c_str(), "w"));
  {
    Reporter reporter(folder.path(), 9, out.get());
    for (int i = 1; i <= 5; ++i) reporter.step(a_step(i));
  }
  const std::vector<std::string> before = lines_of(folder.read("metrics.jsonl"));
  {
    Reporter reporter(folder.path(), 9, out.get());
    reporter.go_on_after(3);
    reporter.step(a_step(4));
    EXPECT_EQ(reporter.sync(), "");
  }
  const std::vector<std::string> after = lines_of(folder.read("metrics.jsonl"));
  EXPECT_EQ(after, (std::vector<std::string>{before[0], before[1], before[2], before[3]}));
  EXPECT_FALSE(contains(folder.read("shown"), "lacks"));
  Reporter(folder.path(), 9, out.get()).go_on_after(6);
  EXPECT_TRUE(contains(folder.read("shown"),
                       folder.path("metrics.jsonl") + ": lacks 2 of the first 6 steps: 5 to 6\n"));
}

TEST(Metrics, AFullDiskIsSaidOnceAndStopsNothing) {
  const TemporaryFolder folder;
  const std::string path = folder.path("metrics.jsonl");
  std::filesystem::create_symlink("/dev/full", path);
  testing::internal::CaptureStderr();
  const File out = opened(std::fopen(folder.path("shown").c_str(), "w"));
  Reporter reporter(folder.path(), 3, out.get());
  for (int i = 1; i <= 3; ++i) reporter.step(a_step(i));
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "pentafold: " + path +
                ": can't be written: No space left on device; training goes on, and what is not "
                "written is missing there\n");
  EXPECT_EQ(lines_of(folder.read("shown")).size(), 4u);
}

TEST(Metrics, TellEachLayersExpertsAndWhereTimeAndMemoryWent) {
  const Written run = written(400, [](Reporter& reporter) {
    StepReport report = a_step(1);
    report.experts = {{"layers.1", {0.5, 0, 0.25, 0.25}}, {"layers.3", {0.25, 0.25, 0.25, 0.25}}};
    report.parts = {{"forward", 0.5}, {"backward", 1.25}};
    report.sent = {{"tp", 4096}, {"cp x dp", std::int64_t{1} << 33}};
    report.live_bytes = 1000;
    report.peak_bytes = std::int64_t{1} << 40;
    report.resident_bytes = 3000;
    for (; report.step <= 3; ++report.step) reporter.step(report);
  });
  const std::vector<std::string> lines = lines_of(run.metrics);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(contains(lines[0],
                       R"("experts":[{"layer":"layers.1","max_mean":2,"dead":1,)"
                       R"("share":[0.5,0,0.25,0.25]},{"layer":"layers.3","max_mean":1,"dead":0,)"
                       R"("share":[0.25,0.25,0.25,0.25]}],)"
                       R"("seconds":{"forward":0.500000,"backward":1.250000},)"
                       R"("sent":{"tp":4096,"cp x dp":8589934592},)"
                       R"("memory":{"live":1000,"peak":1099511627776,"resident":3000},)"))
      << lines[0];
  // 200 times in a run, and the first.
  EXPECT_TRUE(contains(lines[1], "share")) << lines[1];
  EXPECT_FALSE(contains(lines[2], "share")) << lines[2];
  EXPECT_TRUE(contains(lines[2], R"({"layer":"layers.1","max_mean":2,"dead":1})")) << lines[2];
}

TEST(Metrics, AFolderThatIsMissingIsAnErrorThatNamesTheFile) {
  EXPECT_EQ(error_of_reporting("/nowhere"),
            "/nowhere/metrics.jsonl: can't be opened: No such file or directory");
}

}  // namespace
}  // namespace pf
