#include "launch/report.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/launch/temporary_folder.h"
#include "tests/launch/terminal.h"

namespace pf {
namespace {

namespace fs = std::filesystem;
using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File opened(std::FILE* file) {
  return {file, [](std::FILE* f) { return std::fclose(f); }};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

bool contains(const std::string& text, const std::string& part) {
  return count(text, part) > 0;
}

StepReport a_step(std::int64_t number) {
  StepReport report;
  report.step = number;
  report.loss = 5.3 / static_cast<double>(number);
  report.balance_loss = 0.1;
  report.z_loss = 1e-7;
  report.grad_norm = 1.0 / 3;
  report.lr = 2e-3;
  report.tokens = 4096 * number;
  report.tokens_per_s = 12345.6;
  report.expert_load = 1.25;
  report.seconds_left = 245;
  return report;
}

// What a reporter without a terminal prints, and its metrics.
struct Written {
  std::string shown, metrics;
};

Written written(std::int64_t steps, const std::function<void(Reporter&)>& action) {
  const TemporaryFolder folder;
  const std::string shown = folder.path("shown");
  {
    const File out = opened(std::fopen(shown.c_str(), "w"));
    Reporter reporter(folder.path(), steps, out.get());
    action(reporter);
  }
  return {folder.read("shown"), folder.read("metrics.jsonl")};
}

std::string error_of_reporting(const std::string& folder) {
  try {
    Reporter(folder, 1).step(a_step(1));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// ---- metrics ----

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

// Three domains and two layers of four experts.
Heldout specialised() {
  Heldout heldout{.domains = {{"english", 2.5}, {"c\"", 1.5}, {"code", 9, true}}};
  heldout.experts = {{1,
                      {{0.5, 0.5, 0, 0}, {0.25, 0.25, 0.25, 0.25}, {0, 0, 0.125, 0.875}},
                      {0.75, 0.5, 1},
                      {{1, 0.5, 0}, {0.5, 1, 0.5}, {0, 0.5, 1}}},
                     {3,
                      {{0.25, 0.75, 0, 0}, {0.5, 0.25, 0.25, 0}, {1, 0, 0, 0}},
                      {0.25, 0.5, 0},
                      {{1, 1, 0.5}, {1, 1, 0.5}, {0.5, 0.5, 0.5}}}};
  return heldout;
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

TEST(Metrics, AFullDiskIsSaidOnceAndStopsNothing) {
  const TemporaryFolder folder;
  const std::string path = folder.path("metrics.jsonl");
  fs::create_symlink("/dev/full", path);
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

// ---- in a file ----

TEST(Report, InAFileHasOneHeadAndNothingButLines) {
  const Written run = written(60, [](Reporter& reporter) {
    for (int i = 1; i <= 60; ++i) reporter.step(a_step(i));
  });
  EXPECT_EQ(lines_of(run.shown).size(), 61u);
  EXPECT_EQ(count(run.shown, "grad norm"), 1u);
  EXPECT_FALSE(contains(run.shown, "\033"));
  EXPECT_FALSE(contains(run.shown, "\r"));
}

TEST(Report, ValuesEndBelowTheirHeads) {
  const Written run = written(1000, [](Reporter& reporter) { reporter.step(a_step(987)); });
  const std::vector<std::string> lines = lines_of(run.shown);
  ASSERT_EQ(lines.size(), 2u);
  const std::vector<std::array<std::string, 2>> columns{
      {"step", "987"},       {"loss", "0.0054"},        {"lr", "2.00e-03"}, {"grad norm", "0.3333"},
      {"tokens/s", "12.3k"}, {"max/mean load", "1.25"}, {"left", "4m05s"}};
  for (const auto& [head, value] : columns)
    EXPECT_EQ(lines[0].find(head) + head.size(), lines[1].find(value) + value.size()) << head;
  EXPECT_EQ(lines[0].size(), lines[1].size());
}

TEST(Report, ADenseModelHasNoExpertLoad) {
  StepReport report = a_step(1);
  report.expert_load = 0;
  const Written run = written(1, [&](Reporter& reporter) { reporter.step(report); });
  EXPECT_FALSE(contains(run.shown, "load"));
  EXPECT_EQ(lines_of(run.shown)[0].size(), lines_of(run.shown)[1].size());
}

TEST(Report, GoesOnWhenNobodyReads) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  close(ends[0]);
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  {
    const TemporaryFolder folder;
    const File out = opened(fdopen(ends[1], "w"));
    Reporter reporter(folder.path(), 2, out.get());
    for (int i = 1; i <= 2000; ++i) reporter.step(a_step(i));
    EXPECT_EQ(lines_of(folder.read("metrics.jsonl")).size(), 2000u);
  }
  std::signal(SIGPIPE, before);
}

// ---- pictures ----

TEST(Report, ExpertLoadIsABlockForEachExpert) {
  const Written run = written(1, [](Reporter& reporter) {
    reporter.expert_load({{"layer 0", {0.25, 0.5, 0.125, 0.125}}, {"layer 10", {1, 0, 0, 0}}});
  });
  const std::vector<std::string> lines = lines_of(run.shown);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1], "  layer 0   ▄█▂▂  max/mean 2.00");
  EXPECT_EQ(lines[2], "  layer 10  █···  max/mean 4.00  3 dead");
}

TEST(Report, ManyExpertsShareBlocks) {
  std::vector<double> share(160, 1.0 / 160);
  share[159] = 0;
  const Written run = written(1, [&](Reporter& reporter) {
    reporter.expert_load({{"layer 0", share}});
  });
  EXPECT_EQ(count(run.shown, "▄"), 1 + 63u) << run.shown;
  EXPECT_TRUE(contains(run.shown, "  1 dead")) << run.shown;
}

TEST(Report, ALayerWithoutChoicesIsNoPicture) {
  const Written run = written(1, [](Reporter& reporter) {
    reporter.expert_load({{"layer 0", {0, 0}}, {"layer 1", {NAN, NAN}}, {"layer 2", {}}});
  });
  EXPECT_EQ(count(run.shown, "no choices yet"), 3u) << run.shown;
}

TEST(Report, ExpertsByDomainAreALineEach) {
  const Written run = written(1, [](Reporter& reporter) {
    reporter.specialisation(specialised());
    reporter.specialisation({.domains = {{"dense", 1}}});
    Heldout one = specialised();
    one.domains.resize(1);
    for (Specialisation& layer : one.experts) {
      layer.share.resize(1);
      layer.overlap = {{1}};
    }
    reporter.specialisation(one);
  });
  EXPECT_EQ(
      run.shown,
      "experts by domain (held out; means over layers; an even share is 0.25)\n"
      "  english  largest share 0.625 (0.750 in layers.3)  chosen scores 0.500  overlap 0.500\n"
      "  c\"       largest share 0.375 (0.500 in layers.3)  chosen scores 0.500  overlap 0.625\n"
      "  code     largest share 0.938 (1.000 in layers.3)  chosen scores 0.500  overlap 0.375\n"
      "experts by domain (held out; means over layers; an even share is 0.25)\n"
      "  english  largest share 0.625 (0.750 in layers.3)  chosen scores 0.500\n");
}

TEST(Report, SamplesAreIndentedAndShowNoControlBytes) {
  const Written run = written(1, [](Reporter& reporter) {
    reporter.samples({{"german", "Der ", "Käse\nist\t\x1b[2J\xff gut"}, {"empty", "", ""}});
  });
  EXPECT_EQ(run.shown,
            "samples (the prompt ends at »)\n"
            "  german\n    Der »Käse\n    ist ·[2J· gut\n"
            "  empty\n    »\n");
}

TEST(Report, ACharacterMayBeginInThePromptAndEndInTheText) {
  const Written run = written(1, [](Reporter& reporter) {
    reporter.samples({{"x", "a\xE8\xAA",
                       "\x9E"
                       "b"}});
  });
  EXPECT_TRUE(contains(run.shown, "    a語»b\n")) << run.shown;
}

Summary a_summary() {
  Summary summary;
  summary.steps = 1025;
  summary.tokens = 4198400;
  summary.seconds = 312;
  summary.tokens_per_s = 13456;
  summary.first_step_s = 1.23;
  summary.parts = {{"products", 150}, {"attention", 50}};
  summary.gemm_share = 0.614;
  summary.flops_per_s = 4.1e11;
  summary.peak_bytes_per_rank = 3 << 20;
  summary.peak_resident_bytes = 5 << 20;
  summary.loss_first = 5.5452;
  summary.loss_last = 1.4321;
  return summary;
}

TEST(Report, TheSummaryIsAShortBlock) {
  const Written run = written(1, [](Reporter& reporter) { reporter.summary(a_summary()); });
  EXPECT_EQ(run.shown,
            "done: 1025 steps\n"
            "  loss          5.5452 -> 1.4321\n"
            "  tokens        4.20M, 13.5k per second\n"
            "  time          5m12s, the first step after 1.2s\n"
            "  memory        3.0 MiB in tensors per rank, 5.0 MiB resident\n"
            "  speed         0.410 TFLOP/s, 61% of this machine's GEMM rate\n"
            "  where the time went\n"
            "    products       2m30s   75.0%\n"
            "    attention        50s   25.0%\n");
}

TEST(Report, TheSummaryTellsWhatWasSentWhereSomethingWas) {
  Summary summary = a_summary();
  summary.sent = {{"tp", 3 << 20}, {"cp x dp", 1 << 19}};
  const Written run = written(1, [&](Reporter& reporter) { reporter.summary(summary); });
  EXPECT_TRUE(contains(
      run.shown, "\n  sent          3.5 MiB a step from rank 0: tp 3.0 MiB, cp x dp 512.0 KiB\n"))
      << run.shown;
}

TEST(Report, TheSummaryNamesTheSignalAndWhatWasSkipped) {
  Summary summary = a_summary();
  summary.ended_by = "SIGINT";
  summary.skipped = 1;
  const Written run = written(1, [&](Reporter& reporter) { reporter.summary(summary); });
  EXPECT_TRUE(contains(run.shown, "ended by SIGINT after step 1025\n")) << run.shown;
  EXPECT_TRUE(contains(run.shown, "skipped       1 step: ")) << run.shown;
}

// ---- on a terminal ----

TEST(Terminal, ShowsTheHeadEvery25StepsAndOneBarBelow) {
  Terminal terminal(100);
  const TemporaryFolder folder;
  Reporter reporter(folder.path(), 60, terminal.out());
  reporter.line("a message");
  for (int i = 1; i <= 51; ++i) {
    reporter.step(a_step(i));
    if (i % 10 == 0) terminal.bytes();  // what nobody reads blocks the writer in the end
  }
  reporter.line("a message");
  const std::vector<std::string> screen = terminal.screen();
  ASSERT_EQ(screen.size(), 1 + 3 + 51 + 1 + 1u);
  for (const std::size_t head : {1u, 27u, 53u}) EXPECT_TRUE(contains(screen[head], "grad norm"));
  for (std::size_t i = 0; i + 1 < screen.size(); ++i) EXPECT_FALSE(contains(screen[i], "━"));
  EXPECT_EQ(screen[screen.size() - 2], "a message");
  EXPECT_EQ(screen.back(), "  85% ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━────── 51/60  4m05s left");
}

TEST(Terminal, ANarrowOneNeverWrapsTheBar) {
  for (const int columns : {1, 2, 9, 20, 33, 34, 79}) {
    Terminal terminal(columns);
    const TemporaryFolder folder;
    Reporter reporter(folder.path(), 60, terminal.out());
    reporter.step(a_step(30));
    const std::vector<std::string> once = terminal.screen();
    reporter.line("");
    reporter.line("");
    EXPECT_EQ(terminal.screen().size(), once.size() + 2) << columns;
    EXPECT_EQ(terminal.screen().back(), once.back()) << columns;
  }
}

TEST(Terminal, IsCleanAfterAnException) {
  Terminal terminal(80);
  const TemporaryFolder folder;
  try {
    Reporter reporter(folder.path(), 2, terminal.out());
    reporter.step(a_step(1));
    EXPECT_TRUE(contains(terminal.screen().back(), "1/2"));
    throw Error("something");
  } catch (const Error&) {
  }
  EXPECT_EQ(terminal.screen().back(), "");
  EXPECT_EQ(terminal.screen().size(), 3u);
}

TEST(Terminal, HasNoBarAfterTheSummary) {
  Terminal terminal(80);
  const TemporaryFolder folder;
  Reporter reporter(folder.path(), 2, terminal.out());
  reporter.step(a_step(2));
  reporter.summary(a_summary());
  EXPECT_EQ(terminal.screen().back(), "");
  for (const std::string& line : terminal.screen()) EXPECT_FALSE(contains(line, "━")) << line;
}

TEST(Terminal, SamplesAreWrappedInsideTheirMargin) {
  Terminal terminal(24);
  const TemporaryFolder folder;
  Reporter reporter(folder.path(), 2, terminal.out());
  reporter.samples({{"x", "prompt ", "語語語語語語語語語語"}});
  EXPECT_TRUE(contains(terminal.bytes(), "\033[2mprompt \033[0m語")) << terminal.bytes();
  EXPECT_TRUE(contains(terminal.bytes(), "語語語語語語\r\n    語語語語\r\n")) << terminal.bytes();
}

TEST(Terminal, HasNoColoursWithNoColor) {
  Terminal terminal(80);
  setenv("NO_COLOR", "1", 1);
  const TemporaryFolder folder;
  {
    Reporter reporter(folder.path(), 2, terminal.out());
    reporter.step(a_step(1));
    reporter.summary(a_summary());
  }
  unsetenv("NO_COLOR");
  for (const char style : {'1', '2', '3', '0'})
    EXPECT_FALSE(contains(terminal.bytes(), std::string("\033[") + style)) << terminal.bytes();
}

TEST(Terminal, ADumbOneGetsPlainLines) {
  Terminal terminal(80);
  setenv("TERM", "dumb", 1);
  const TemporaryFolder folder;
  Reporter(folder.path(), 2, terminal.out()).step(a_step(1));
  setenv("TERM", "xterm", 1);
  EXPECT_FALSE(contains(terminal.bytes(), "\033")) << terminal.bytes();
}

}  // namespace
}  // namespace pf
