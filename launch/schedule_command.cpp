#include "launch/schedule_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <numeric>

#include "core/error.h"
#include "launch/measured_schedule.h"
#include "launch/plot.h"
#include "launch/schedule_drawing.h"
#include "launch/terminal.h"

namespace pf {
namespace {

constexpr int widest_line = 100;  // where there is no terminal
constexpr std::int64_t most_actions = 200'000;

std::string number(double value) {
  return fmt::format("{:.6g}", value);
}

std::string percent(double part, double whole) {
  return fmt::format("{:.1f}%", 100 * part / whole);
}

// As papers write it.
std::string bubble_words(const ScheduleShape& shape) {
  switch (shape.kind) {
    case ScheduleKind::gpipe:
    case ScheduleKind::one_f_one_b:
      return "(p - 1)(F + I + W)";
    case ScheduleKind::interleaved:
      return "(p - 1)(F + I + W) / v";
    case ScheduleKind::zero_bubble_h1:
      return shape.micro_batches >= shape.stages ? "(p - 1)(F + I - W)"
                                                 : "(p - 1)(F + I) - (m - 1) W";
    case ScheduleKind::zero_bubble_v:
      return "at least (p - 1) F / 2";
  }
  return "";
}

std::string in_flight_words(const ScheduleShape& shape) {
  switch (shape.kind) {
    case ScheduleKind::gpipe:
      return "m";
    case ScheduleKind::one_f_one_b:
      return "p - rank";
    case ScheduleKind::interleaved:
      return shape.chunks == 1 ? "p - rank" : "p (1 + (p - 1) / (p v)) on rank 0";
    case ScheduleKind::zero_bubble_h1:
    case ScheduleKind::zero_bubble_v:
      return "p";
  }
  return "";
}

// In micro-batches of all of a rank's layers.
double whole(const ScheduleShape& shape, int in_flight_chunks) {
  return double(in_flight_chunks) / shape.chunks;
}

double bubble_of(const ScheduleDrawing& drawing, std::size_t rank) {
  double bubble = drawing.makespan;
  for (const WorkBox& box : drawing.rows[rank]) bubble -= box.end - box.begin;
  return bubble;
}

std::string time_words(const ScheduleDrawing& drawing) {
  double bubbles = 0;
  for (std::size_t r = 0; r < drawing.rows.size(); ++r) bubbles += bubble_of(drawing, r);
  return fmt::format("{} {}, {} of it bubble", number(drawing.makespan),
                     drawing.unit.empty() ? "units of time" : drawing.unit,
                     percent(bubbles, drawing.makespan * double(drawing.rows.size())));
}

// Of the terminal on standard output, or of files.
std::string drawn(const ScheduleDrawing& drawing) {
  const bool is_terminal = understands_escapes(stdout);
  const char* no_colour = std::getenv("NO_COLOR");
  const bool has_colours = is_terminal && (no_colour == nullptr || *no_colour == '\0');
  const int columns = is_terminal ? columns_of(stdout) : widest_line;
  return drawing.title + ": " + time_words(drawing) + "\n\n" +
         terminal_text(drawing, columns, has_colours) + "\n" +
         terminal_legend(drawing, has_colours) + "\n";
}

void add_remarks(ScheduleDrawing& drawing, const Schedule& schedule) {
  for (std::size_t r = 0; r < drawing.rows.size(); ++r)
    drawing.remarks.push_back(
        fmt::format("{} bubble, holds {}", percent(bubble_of(drawing, r), drawing.makespan),
                    number(whole(schedule.shape, in_flight(schedule, int(r))))));
  drawing.title += ": " + time_words(drawing);
}

std::string rank_table(const ScheduleDrawing& drawing, const Schedule& schedule) {
  std::string text = "\n   rank    bubble           in flight\n";
  for (std::size_t r = 0; r < drawing.rows.size(); ++r) {
    const double bubble = bubble_of(drawing, r);
    text += fmt::format("{:>7}{:>10}{:>8}{:>12}\n", r, number(bubble),
                        percent(bubble, drawing.makespan),
                        number(whole(schedule.shape, in_flight(schedule, int(r)))));
  }
  return text;
}

void write_drawings(const std::string& path, const std::vector<ScheduleDrawing>& drawings) {
  if (path.empty()) return;
  write_picture(path, svg_of(drawings));
  print(path + '\n');
}

void draw_plan(const ScheduleShape& shape, const ScheduleCommand& command, int& failure) {
  failure = 1;
  const Schedule schedule = make_schedule(shape);
  const Timeline time =
      timeline(schedule, even_times(shape, command.forward, command.input, command.weight));
  ScheduleDrawing drawing = drawing_of(schedule, time);
  print(drawn(drawing) + rank_table(drawing, schedule) +
        fmt::format("\nbubble      {} = {}\nin flight   {} = {}\n"
                    "(p = {}, m = {}, v = {}, F = {}, I = {}, W = {}; in flight: micro-batches of "
                    "a whole rank)\n",
                    bubble_words(shape),
                    number(bubble_formula(shape, command.forward, command.input, command.weight)),
                    in_flight_words(shape), number(whole(shape, in_flight_bound(shape, 0))),
                    shape.stages, shape.micro_batches, shape.chunks, number(command.forward),
                    number(command.input), number(command.weight)));
  add_remarks(drawing, schedule);
  write_drawings(command.output, {drawing});
}

// What was measured, and what the schedule would take with the same work and no time in between.
void draw_measured(const ScheduleCommand& command, int& failure) {
  const MeasuredSchedule measured = measured_schedule(command.measured);
  failure = 1;
  const Schedule& schedule = measured.schedule;
  ScheduleDrawing plan = drawing_of(schedule, timeline(schedule, mean_times(measured)));
  ScheduleDrawing run = plan;
  plan.title = "planned with the mean times of each stage";
  run.title = command.measured + ", measured, " + text(schedule.shape);
  run.rows = measured.rows;
  run.makespan = measured.makespan;
  plan.unit = run.unit = "ms";
  for (std::size_t r = 0; r < run.rows.size(); ++r)
    plan.names[r] = run.names[r] = fmt::format("rank {}", measured.ranks[r]);
  std::string table = "\n   rank    measured bubble    planned bubble    in flight\n";
  for (std::size_t r = 0; r < run.rows.size(); ++r)
    table += fmt::format(
        "{:>7}{:>11}{:>8}{:>10}{:>8}{:>13}\n", measured.ranks[r],
        fmt::format("{:.1f}", bubble_of(run, r)), percent(bubble_of(run, r), run.makespan),
        fmt::format("{:.1f}", bubble_of(plan, r)), percent(bubble_of(plan, r), plan.makespan),
        number(whole(schedule.shape, in_flight(schedule, int(r)))));
  print(drawn(run) + '\n' + drawn(plan) + table);
  for (ScheduleDrawing* drawing : {&run, &plan}) add_remarks(*drawing, schedule);
  write_drawings(command.output, {run, plan});
}

// A line a kind.
std::string comparison(const ScheduleCommand& command) {
  std::string text = fmt::format(
      "{} stages, {} micro-batches; forward {}, input gradient {}, weight gradient {} of a rank's "
      "layers\n\n   kind          chunks      time   bubble   in flight on the first rank\n",
      command.stages, command.micro_batches, number(command.forward), number(command.input),
      number(command.weight));
  for (const auto kind : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved,
                          ScheduleKind::zero_bubble_h1, ScheduleKind::zero_bubble_v}) {
    const ScheduleShape shape = command.shape_of(kind);
    if (const std::string wrong = impossibility(shape); !wrong.empty()) {
      text += fmt::format("   {:<14}{}\n", name(kind), wrong);
      continue;
    }
    const Schedule schedule = make_schedule(shape);
    const Timeline time =
        timeline(schedule, even_times(shape, command.forward, command.input, command.weight));
    text += fmt::format("   {:<14}{:>6}{:>10}{:>9}   {}\n", name(kind), shape.chunks,
                        number(time.makespan), percent(time.bubbles[0], time.makespan),
                        number(whole(shape, in_flight(schedule, 0))));
  }
  return text;
}

}  // namespace

void ScheduleCommand::add_to(CLI::App& app) {
  app.add_option("--kind", kind);
  app.add_option("--stages", stages);
  app.add_option("--micro-batches", micro_batches);
  app.add_option("--chunks", chunks);
  app.add_option("--forward", forward);
  app.add_option("--input", input);
  app.add_option("--weight", weight);
  app.add_option("--output", output);
  app.add_option("--measured", measured);
}

ScheduleShape ScheduleCommand::shape_of(ScheduleKind of_kind) const {
  const bool is_in_chunks =
      of_kind == ScheduleKind::interleaved || of_kind == ScheduleKind::zero_bubble_v;
  return {of_kind, stages, chunks != 0 ? chunks : is_in_chunks ? 2 : 1, micro_batches};
}

void ScheduleCommand::check_numbers() const {
  require(stages > 0 && micro_batches > 0,
          "schedule: wanted --stages and --micro-batches, as in "
          "pentafold schedule --kind 1f1b --stages 4 --micro-batches 12 (see pentafold --help)");
  require(chunks >= 0, "--chunks ", chunks, ": wanted 1 or more");
  for (const double time : {forward, input, weight})
    require(std::isfinite(time) && time >= 0, "--forward ", forward, ", --input ", input,
            ", --weight ", weight, ": wanted times of 0 or more");
  require(forward + input + weight > 0,
          "schedule: all work takes no time; wanted --forward, "
          "--input or --weight above 0");
  const std::int64_t actions = 7 * std::int64_t{stages} * micro_batches * std::max(1, chunks);
  require(actions <= most_actions, "schedule: ", stages, " stages, ", micro_batches,
          " micro-batches and ", std::max(1, chunks), " chunks are too many to draw");
}

int ScheduleCommand::run(int& failure) const {
  if (!output.empty()) check_picture_name(output);
  if (!measured.empty()) {
    require(kind.empty() && stages == 0 && micro_batches == 0 && chunks == 0, "--measured ",
            measured, ": the run says its kind, stages, micro-batches and chunks");
    draw_measured(*this, failure);
    return 0;
  }
  check_numbers();
  if (kind.empty()) {
    require(output.empty(), "--output ", output, ": wanted a --kind to draw");
    print(comparison(*this));
    return 0;
  }
  const ScheduleShape shape = shape_of(schedule_kind(kind));
  const std::string wrong = impossibility(shape);
  require(wrong.empty(), "schedule: ", wrong);
  draw_plan(shape, *this, failure);
  return 0;
}

}  // namespace pf
