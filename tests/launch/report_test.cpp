#include "launch/report.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/launch/reporting.h"
#include "tests/launch/temporary_folder.h"
#include "tests/launch/terminal.h"

namespace pf {
namespace {

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

TEST(Report, TheSummaryOfAResumedRunTellsHowManyStepsAreNew) {
  Summary summary = a_summary();
  summary.resumed_after = 1000;
  Written run = written(1, [&](Reporter& reporter) { reporter.summary(summary); });
  EXPECT_TRUE(contains(run.shown, "done: 1025 steps, the last 25 of them since it was resumed\n"))
      << run.shown;
  summary.ended_by = "train.time_limit";
  run = written(1, [&](Reporter& reporter) { reporter.summary(summary); });
  EXPECT_TRUE(contains(run.shown,
                       "ended by train.time_limit after step 1025, the last 25 of them "
                       "since it was resumed\n"))
      << run.shown;
}

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
