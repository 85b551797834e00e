// `pentafold schedule`: what it draws, and as people start it.
#include "launch/schedule_command.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "launch/measured_schedule.h"
#include "launch/run_mesh.h"
#include "launch/schedule_drawing.h"
#include "launch/text.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

using Kind = Action::Kind;

ScheduleDrawing plan(const ScheduleShape& shape, const ActionTimes& times = {}) {
  const Schedule schedule = make_schedule(shape);
  return drawing_of(schedule, timeline(schedule, times));
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

std::string without_escapes(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\033') at = text.find('m', at) + 1;
    if (at < text.size() && text[at] != '\033')
      out += text[at];
    else
      --at;
  }
  return out;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(ScheduleDrawing, IsALineARankWithTimeToTheRight) {
  EXPECT_EQ(terminal_text(plan({ScheduleKind::one_f_one_b, 2, 1, 2}), 60, false),
            "rank 0  F0--F1--........B0------....B1------\n"
            "rank 1  ....F0--B0------F1--B1------........\n");
  EXPECT_EQ(terminal_text(plan({ScheduleKind::zero_bubble_v, 1, 2, 1}), 60, false),
            "rank 0  F0--f0--i0--I0--w0--W0--\n");
}

TEST(ScheduleDrawing, HasNumbersInColouredBoxesOnATerminal) {
  const std::string text = terminal_text(plan({ScheduleKind::one_f_one_b, 2, 1, 2}), 60, true);
  EXPECT_EQ(without_escapes(text),
            "rank 0  0   1           0           1       \n"
            "rank 1      0   0       1   1               \n");
  EXPECT_TRUE(contains(text, "rank 0  \033[38;5;231;48;5;25m0   \033[0m\033[")) << text;
}

TEST(ScheduleDrawing, NeverGetsWiderThanTheTerminal) {
  for (const bool has_colours : {false, true})
    for (const int columns : {20, 40, 79, 200})
      for (const int m : {1, 7, 40, 300}) {
        const auto shape = ScheduleShape{ScheduleKind::zero_bubble_h1, 4, 1, m};
        const std::string text = without_escapes(
            terminal_text(plan(shape, {{1.3}, {1.7}, {0.9}, 0}), columns, has_colours));
        for (const std::string& line : lines_of(text)) {
          EXPECT_LT(line.size(), std::size_t(columns)) << line;
          EXPECT_EQ(line.size(), lines_of(text)[0].size());
        }
      }
}

TEST(ScheduleDrawing, KeepsTheEndOfANumberThatDoesNotFit) {
  const std::string line = terminal_text(plan({ScheduleKind::gpipe, 1, 1, 12}), 100, false);
  EXPECT_TRUE(contains(line, "F9F0F1B0--")) << line;  // F9, F10, F11, B0
}

TEST(ScheduleDrawing, SaysWhatItsMarksMean) {
  EXPECT_EQ(terminal_legend(plan({ScheduleKind::one_f_one_b, 2, 1, 2}), false),
            "F forward   B backward   . idle");
  EXPECT_EQ(terminal_legend(plan({ScheduleKind::zero_bubble_v, 2, 2, 2}), false),
            "F forward   I input gradient   W weight gradient   small: odd chunks   . idle");
}

TEST(ScheduleDrawing, ColoursAreLighterForLaterChunks) {
  const auto brightness = [](const Colour& c) { return c[0] + c[1] + c[2]; };
  for (const Kind kind : {Kind::forward, Kind::backward, Kind::weight_gradient})
    for (int chunk = 1; chunk < 4; ++chunk)
      EXPECT_GT(brightness(colour_of({kind, chunk, 0}, 4)),
                brightness(colour_of({kind, chunk - 1, 0}, 4)));
}

TEST(ScheduleDrawing, APictureHasABoxForEveryWork) {
  ScheduleDrawing drawing = plan({ScheduleKind::zero_bubble_v, 3, 2, 5});
  drawing.title = "a < b";
  drawing.remarks = {"first", "second", "third"};
  const std::string svg = svg_of({drawing, drawing});
  EXPECT_EQ(count(svg, "<title>"), 2u * 3 * 6 * 5);
  EXPECT_EQ(count(svg, "class=\"idle\""), 2u * 3);
  EXPECT_TRUE(contains(svg, "<title>weight_gradient 1.4: ")) << svg;
  EXPECT_TRUE(contains(svg, ">a &lt; b</text>"));
  EXPECT_TRUE(contains(svg, ">third</text>"));
  EXPECT_EQ(count(svg, "<rect"), count(svg, "</rect>") + count(svg, "/>\n") - count(svg, "<path"));
}

class ScheduleProgram : public testing::Test {
 protected:
  Outcome run(const std::string& arguments) const {
    return in_shell(here, "$p schedule " + arguments);
  }
  std::string refused(const std::string& arguments) const {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.out;
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  }

  TemporaryFolder here;
};

TEST_F(ScheduleProgram, DrawsAndCountsBesideTheFormulas) {
  const Outcome outcome = run(
      "--kind zbh1 --stages 4 --micro-batches 6 --forward 2 --input 3 --weight 1 --output a.svg");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out,
                       "zbh1 of 4 stages, 6 micro-batches: 48 units of time, 25.0% of "
                       "it bubble\n\nrank 0  F0"))
      << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "      3        12   25.0%           4\n")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "bubble      (p - 1)(F + I - W) = 12\nin flight   p = 4\n"));
  EXPECT_TRUE(outcome.out.ends_with("a.svg\n"));
  EXPECT_EQ(count(here.read("a.svg"), "<title>"), 4u * 6 * 3);
}

TEST_F(ScheduleProgram, ComparesAllKindsUnlessOneIsNamed) {
  const Outcome outcome = run("--stages 4 --micro-batches 10");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "   1f1b               1        39    23.1%   4\n"))
      << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "interleaved   interleaved needs a multiple of the 4 stages"));
}

TEST_F(ScheduleProgram, RefusesWhatItCantDraw) {
  EXPECT_EQ(refused("--kind 1f1b --stages 4"),
            "pentafold: schedule: wanted --stages and --micro-batches, as in pentafold schedule "
            "--kind 1f1b --stages 4 --micro-batches 12 (see pentafold --help)\n");
  EXPECT_EQ(refused("--kind 2f2b --stages 4 --micro-batches 4"),
            "pentafold: schedule: '2f2b' is not one of gpipe, 1f1b, interleaved, zbh1, zbv\n");
  EXPECT_EQ(refused("--kind interleaved --stages 4 --micro-batches 6"),
            "pentafold: schedule: interleaved needs a multiple of the 4 stages as its number of "
            "micro-batches, not 6\n");
  EXPECT_EQ(refused("--kind 1f1b --stages 4 --micro-batches 4 --weight -1"),
            "pentafold: --forward 1, --input 1, --weight -1: wanted times of 0 or more\n");
  EXPECT_EQ(
      refused("--kind 1f1b --stages 400 --micro-batches 4000"),
      "pentafold: schedule: 400 stages, 4000 micro-batches and 1 chunks are too many to draw\n");
  EXPECT_EQ(refused("--stages 4 --micro-batches 4 --output a.svg"),
            "pentafold: --output a.svg: wanted a --kind to draw\n");
  EXPECT_EQ(refused("--kind gpipe --stages 2 --micro-batches 4 --output a.txt"),
            "pentafold: --output a.txt: wanted a name that ends in .svg or .png\n");
  EXPECT_EQ(refused("--measured run --stages 4"),
            "pentafold: --measured run: the run says its kind, stages, micro-batches and chunks\n");
  EXPECT_TRUE(contains(refused("--kind 1f1b --stage 4"),
                       "unknown option '--stage'; did you mean "
                       "--stages?"));
}

// A run of 1F1B on 2 stages with 2 replicas, 2 micro-batches each; forward takes 1 ms, backward 2.
class MeasuredRun : public testing::Test {
 protected:
  void SetUp() override {
    here.write("run/config.yaml",
               std::string(small_run) + "parallel: {ranks: 4, pp: 2, schedule: one_f_one_b}\n");
  }
  // Events of rank `rank`, the work of a plan from `begin` on.
  std::string step(int rank, double begin) const {
    const ScheduleDrawing drawing = plan({ScheduleKind::one_f_one_b, 2, 1, 2});
    std::string events;
    for (const WorkBox& box : drawing.rows[std::size_t(rank / 2)])
      events += event(rank, text(box.action), begin + box.begin, box.end - box.begin);
    return events;
  }
  static std::string event(int rank, const std::string& name, double begin, double length) {
    return "{\"pid\":" + std::to_string(rank + 1) +
           ",\"tid\":1,\"ts\":" + std::to_string(begin * 1000) + ",\"name\":" + json_string(name) +
           ",\"cat\":\"action\",\"ph\":\"X\",\"dur\":" + std::to_string(length * 1000) +
           ",\"args\":{}},\n";
  }
  void write_trace(const std::string& events) const {
    here.write("run/trace.json",
               "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" + events + "]}\n");
  }
  std::string error() const {
    const std::string said = error_of([&] { measured_schedule(here.path("run")); });
    const std::string folder = here.path("run") + "/";
    return said.starts_with(folder) ? said.substr(folder.size()) : said;
  }
  TemporaryFolder here;
};

TEST_F(MeasuredRun, IsTheLastWholeStepOfTheFirstRankOfEachStage) {
  std::string events;
  for (int rank = 0; rank < 4; ++rank)
    events += step(rank, 100) + step(rank, 200 + rank) + event(rank, "forward 0.0", 300, 1) +
              event(rank, "send_forward 0.0", 302, 1);
  write_trace(events);
  const MeasuredSchedule measured = measured_schedule(here.path("run"));
  EXPECT_EQ(measured.ranks, (std::vector<int>{0, 2}));
  ASSERT_EQ(measured.rows[1].size(), 4u);
  EXPECT_EQ(measured.rows[0][0].begin, 0);
  EXPECT_NEAR(measured.rows[1][0].begin, 1 + 2, 1e-6);  // rank 2 began 2 ms later
  EXPECT_NEAR(measured.makespan, 9, 1e-6);
  const ActionTimes times = mean_times(measured);
  EXPECT_NEAR(times.forward[1], 1, 1e-6);
  EXPECT_NEAR(times.input_gradient[0], 2, 1e-6);
  EXPECT_EQ(times.weight_gradient[0], 0);
}

TEST_F(MeasuredRun, SaysWhatIsWrongWithATrace) {
  const std::string how =
      "; record them with: pentafold train FILE parallel.pp=2 --ranks 2 --profile";
  EXPECT_EQ(error(), "trace.json: No such file or directory" + how);
  write_trace("");
  EXPECT_EQ(error(), "trace.json: has no actions of a pipeline" + how);
  write_trace(event(0, "sideways 0.0", 1, 1));
  EXPECT_EQ(error(),
            "trace.json:2: found the action 'sideways 0.0', wanted one like 'forward 0.3'");
  write_trace("{\"cat\":\"action\"},\n");
  EXPECT_EQ(error(),
            "trace.json:2: found '{\"cat\":\"action\"}', wanted an event with name, pid, ts "
            "and dur");
  write_trace(step(0, 0));
  EXPECT_EQ(error(), "trace.json: rank 2 has no actions");
  write_trace(step(0, 0) + event(2, "forward 0.1", 0, 1));
  EXPECT_EQ(error(),
            "trace.json: rank 2 has no whole step in the order of 1f1b of 2 stages, 2 "
            "micro-batches; its first action is forward 0.1");
}

TEST_F(ScheduleProgram, DrawsWhatAProfiledRunDid) {
  write_small_run(here);
  const Outcome trained =
      in_shell(here,
               "$p train run.yaml run.folder=run train.steps=2 train.sample_bytes=0 "
               "parallel.pp=2 parallel.schedule=zbh1 --ranks 4 --profile=2");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Outcome outcome = run("--measured run --output run.svg");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("run, measured, zbh1 of 2 stages, 2 micro-batches: "), 0u)
      << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "planned with the mean times of each stage: ")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\n      2 ")) << outcome.out;
  EXPECT_EQ(count(here.read("run.svg"), "<title>"), 2u * 2 * 2 * 3);
}

}  // namespace
}  // namespace pf
