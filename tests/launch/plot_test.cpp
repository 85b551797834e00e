#include "launch/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/launch/shell.h"

namespace pf {
namespace {

std::string step_line(int step, const std::string& loss) {
  return "{\"step\":" + std::to_string(step) + ",\"loss\":" + loss + ",\"tokens_per_s\":1000}\n";
}

TEST(ReadMetrics, KnowsStepsEvaluationsAndExperts) {
  const TemporaryFolder here;
  here.write(
      "run/metrics.jsonl",
      R"({"step":1,"loss":2.5,"tokens_per_s":100,"experts":[{"layer":"layers.1","max_mean":2}]})"
      "\n"
      R"({"step":1,"heldout":{"zulu":1.5,"english":2}})"
      "\n"
      R"({"step":2,"loss":null,"tokens_per_s":200})"
      "\n"
      R"({"step":3,"lo)");  // a run that goes on
  const RunMetrics run = read_metrics(here.path("run/"));
  EXPECT_EQ(run.name, "run");
  EXPECT_EQ(run.loss.step, (std::vector<double>{1, 2}));
  EXPECT_EQ(run.loss.value[0], 2.5);
  EXPECT_TRUE(std::isnan(run.loss.value[1]));
  EXPECT_EQ(run.tokens_per_s.value, (std::vector<double>{100, 200}));
  ASSERT_EQ(run.heldout.size(), 2u);
  EXPECT_EQ(run.heldout[0].name, "zulu");
  EXPECT_EQ(run.heldout[1].value, (std::vector<double>{2}));
  ASSERT_EQ(run.max_mean.size(), 1u);
  EXPECT_EQ(run.max_mean[0].value, (std::vector<double>{2}));
}

TEST(ReadMetrics, NamesTheLineThatIsWrong) {
  const TemporaryFolder here;
  const auto error = [&](const std::string& text) {
    const std::string path = here.write("m.jsonl", step_line(1, "2") + text);
    return error_of([&] { read_metrics(path); }).substr(path.size());
  };
  EXPECT_EQ(error("hello\n"), ":2: found 'hello', wanted a JSON object");
  EXPECT_EQ(error("\n"), ":2: found '', wanted a JSON object");
  EXPECT_EQ(error("{\"step\":2,\"loss\":\"low\"}\n"),
            ":2: loss: found \"low\", wanted a number or null");
  EXPECT_EQ(error("{\"step\":2}\n"), ":2: loss: found null, wanted a number or null");
  EXPECT_EQ(error("{\"step\":2,\"heldout\":3}\n"), ":2: heldout: found 3, wanted a map of domains");
}

// Two domains and two layers; the second layer's score is `score`.
std::string evaluation_line(int step, const std::string& score) {
  return "{\"step\":" + std::to_string(step) +
         R"(,"heldout":{"zulu":1.5,"english":2},"experts":[)"
         R"({"layer":"layers.0","domains":{"zulu":{"largest":0.75,"score":0.5,"share":[0.75,0.25]},)"
         R"("english":{"largest":1,"score":1,"share":[0,1]}},"overlap":{"zulu":{"english":0}}},)"
         R"({"layer":"layers.2","domains":{"zulu":{"largest":0.5,"score":)" +
         score +
         R"(,"share":[0.5,0.5]},"english":{"largest":0.5,"score":0.5,"share":[0.5,0.5]}},)"
         R"("overlap":{"zulu":{"english":0.5}}}]})"
         "\n";
}

TEST(ReadMetrics, KnowsTheExpertsOfTheLastEvaluation) {
  const TemporaryFolder here;
  here.write("run/metrics.jsonl", evaluation_line(5, "0.5") + evaluation_line(9, "1"));
  const RunMetrics run = read_metrics(here.path("run"));
  EXPECT_EQ(run.domains, (std::vector<std::string>{"zulu", "english"}));
  ASSERT_EQ(run.score.size(), 2u);
  EXPECT_EQ(run.score[0].step, (std::vector<double>{5, 9}));
  EXPECT_EQ(run.score[0].value, (std::vector<double>{0.5, 0.75}));
  EXPECT_EQ(run.largest[1].value, (std::vector<double>{0.75, 0.75}));
  ASSERT_EQ(run.experts.size(), 2u);
  EXPECT_EQ(run.experts[1].layer, "layers.2");
  EXPECT_EQ(run.experts[0].share, (std::vector<std::vector<double>>{{0.75, 0.25}, {0, 1}}));
  EXPECT_EQ(run.experts[1].overlap, (std::vector<std::vector<double>>{{1, 0.5}, {0.5, 1}}));
}

TEST(ReadMetrics, NamesWhatIsWrongAboutExperts) {
  const TemporaryFolder here;
  const auto error = [&](const std::string& layers) {
    const std::string path =
        here.write("m.jsonl", R"({"step":1,"heldout":{"a":1},"experts":)" + layers + "}\n");
    return error_of([&] { read_metrics(path); }).substr(path.size());
  };
  EXPECT_EQ(error("2"), ":1: experts: found 2, wanted a list of layers");
  EXPECT_EQ(error("[2]"),
            ":1: experts: found 2, wanted a layer with its domains and their overlap");
  EXPECT_EQ(error(R"([{"layer":"l","domains":{"a":3},"overlap":{}}])"),
            ":1: a: found 3, wanted what the domain chose");
  EXPECT_EQ(error(R"([{"layer":"l","domains":{"a":{"share":["x"]}},"overlap":{}}])"),
            ":1: share: found \"x\", wanted numbers");
  const std::string use = R"({"largest":1,"score":1,"share":[1]})";
  EXPECT_EQ(
      error(R"([{"layer":"l","domains":{"a":)" + use + R"(,"b":)" + use + R"(},"overlap":{}}])"),
      ":1: overlap: found {}, wanted a map of maps of domains");
  EXPECT_EQ(error(R"([{"layer":"l","domains":{"a":)" + use + R"(},"overlap":{}},)" +
                  R"({"layer":"m","domains":{},"overlap":{}}])"),
            ":1: experts: found {}, wanted the same domains in each layer");
}

TEST(Chart, CellsAreDarkWhereNumbersAreLarge) {
  Panel panel{"p", "", {}, false};
  panel.heat = HeatMap{{"a", "b"}, {"0", "1"}, {{"layer", {{0, 0.5}, {NAN, 0.25}}}}, 0.5};
  const std::string svg = svg_of("t", {panel});
  EXPECT_TRUE(contains(svg, "fill=\"#ffffff\"/>"));
  EXPECT_TRUE(contains(svg, "fill=\"#0072b2\"/>"));
  EXPECT_TRUE(contains(svg, ">0.25<"));
  EXPECT_FALSE(contains(svg, "nan"));
  // Many columns leave no room for values.
  panel.heat->columns.assign(64, "7");
  for (auto& row : panel.heat->blocks[0].rows) row.assign(64, 0.25);
  EXPECT_FALSE(contains(svg_of("t", {panel}), ">0.25<"));
}

TEST(Chart, TicksAreRoundNumbersInside) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(1, 60, 6), (std::vector<double>{10, 20, 30, 40, 50, 60}));
  EXPECT_EQ(round_ticks(-1, 1, 2), (std::vector<double>{-1, 0, 1}));
  EXPECT_EQ(log_ticks(1.5, 30), (std::vector<double>{2, 5, 10, 20}));
  EXPECT_EQ(tick_text(1500), "1.5k");
  EXPECT_EQ(tick_text(0), "0");
  EXPECT_EQ(tick_text(2e6), "2M");
}

TEST(Chart, ManyPointsKeepTheirExtremes) {
  Panel panel{"p", "", {ChartLine{}}, false};
  for (int i = 0; i < 100000; ++i) {
    panel.lines[0].x.push_back(i);
    panel.lines[0].y.push_back(i == 54321 ? 100 : 0);
  }
  const std::string svg = svg_of("t", {panel});
  EXPECT_LT(svg.size(), 40000u);
  EXPECT_TRUE(contains(svg, ">100<")) << "the tick below the peak";
}

TEST(Chart, NamesCannotBreakThePicture) {
  const Panel panel{"<&>", "", {ChartLine{"a<b", {1}, {2}}}, false};
  const std::string svg = svg_of("\"&\n", {panel});
  EXPECT_TRUE(contains(svg, "&lt;&amp;&gt;"));
  EXPECT_TRUE(contains(svg, "a&lt;b"));
  EXPECT_TRUE(contains(svg, ">\"&amp;·<"));
}

TEST(Plot, SmoothingStartsAtTheFirstValueAndPassesGaps) {
  const std::vector<double> y = smoothed({1, 1, NAN, 1, 2}, 3);
  EXPECT_DOUBLE_EQ(y[0], 1);
  EXPECT_DOUBLE_EQ(y[1], 1);
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_DOUBLE_EQ(y[3], 1);
  EXPECT_GT(y[4], 1);
  EXPECT_LT(y[4], 2);
}

class PlotCommand : public testing::Test {
 protected:
  Outcome plot(const std::string& arguments) const {
    return in_shell(here, "$p plot " + arguments);
  }

  TemporaryFolder here;
};

TEST_F(PlotCommand, DrawsOneOrSeveralRunsAlsoShortAndEmptyOnes) {
  here.write("a/metrics.jsonl", step_line(1, "5") + step_line(2, "4"));
  here.write("b/metrics.jsonl", step_line(1, "3"));
  here.write("empty/metrics.jsonl", "");
  const Outcome one = plot("a --smooth");
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(one.out, "a/plot.svg\n");
  EXPECT_TRUE(contains(here.read("a/plot.svg"), "Training loss"));
  EXPECT_EQ(plot("a b empty --output x.svg --log").code, 0);
  EXPECT_TRUE(contains(here.read("x.svg"), ">a, b, empty<")) << here.read("x.svg");
  EXPECT_TRUE(contains(here.read("x.svg"), "<circle")) << "a single step is seen";
  EXPECT_EQ(plot("empty").code, 0);
  EXPECT_TRUE(contains(here.read("empty/plot.svg"), "no points yet"));
  EXPECT_FALSE(contains(here.read("empty/plot.svg"), "nan"));
}

TEST_F(PlotCommand, ShowsTheExpertsOfDomains) {
  here.write("a/metrics.jsonl", step_line(1, "5") + evaluation_line(1, "1"));
  here.write("b/metrics.jsonl", step_line(1, "5") + evaluation_line(1, "null"));
  EXPECT_EQ(plot("a").code, 0);
  const std::string one = here.read("a/plot.svg");
  for (const char* part : {">Busiest expert of a domain<", ">Chosen scores<", ">Experts by domain<",
                           ">layers.2<", ">zulu<", ">Overlap of favourite experts<"})
    EXPECT_TRUE(contains(one, part)) << part;
  EXPECT_EQ(plot("a b --output two.svg").code, 0);
  for (const char* part :
       {">a: Experts by domain<", ">b: Experts by domain<", ">b: Overlap of favourite experts<"})
    EXPECT_TRUE(contains(here.read("two.svg"), part)) << part;
  EXPECT_FALSE(contains(here.read("two.svg"), "nan"));
}

TEST_F(PlotCommand, WritesPngOrSaysWhatIsMissing) {
  here.write("a/metrics.jsonl", step_line(1, "5"));
  const Outcome outcome = plot("a --output 'a b.png'");
  EXPECT_EQ(outcome.code == 0, contains(here.read("a b.png"), "PNG")) << outcome.err;
  const Outcome without = in_shell(here, "PATH=/nowhere $p plot a --output c.png");
  EXPECT_EQ(without.code, 1);
  EXPECT_EQ(without.err,
            "pentafold: c.png: PNG needs rsvg-convert (Debian: apt-get install librsvg2-bin); or "
            "write an .svg\n");
  EXPECT_EQ(here.read("c.png"), "");
}

TEST_F(PlotCommand, RefusesWhatIsNoRun) {
  here.write("a/metrics.jsonl", "{\n");
  here.write("b/x", "");
  EXPECT_EQ(plot("nowhere").err,
            "pentafold: nowhere: there is no such run; wanted the folder of one, like "
            "runs/quickstart\n");
  EXPECT_EQ(plot("b").err, "pentafold: b: has no metrics.jsonl; wanted the folder of a run\n");
  EXPECT_EQ(plot("a").err, "pentafold: a/metrics.jsonl:1: found '{', wanted a JSON object\n");
  EXPECT_EQ(plot("a --output a.gif").err,
            "pentafold: --output a.gif: wanted a name that ends in .svg or .png\n");
  for (const char* arguments : {"", "nowhere", "b", "a", "a --output a.gif"})
    EXPECT_EQ(plot(arguments).code, 2) << arguments;
  here.write("c/metrics.jsonl", step_line(1, "5"));
  const Outcome unwritable = plot("c --output nowhere/x.svg");
  EXPECT_EQ(unwritable.code, 1);
  EXPECT_EQ(unwritable.err,
            "pentafold: nowhere/x.svg: can't be written: No such file or directory\n");
}

}  // namespace
}  // namespace pf
