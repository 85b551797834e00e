#include "launch/schedule_drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace pf {
namespace {

using Kind = Action::Kind;

constexpr std::array kinds{Kind::forward, Kind::backward, Kind::input_gradient,
                           Kind::weight_gradient};
constexpr double widest_unit = 4;  // columns of the shortest work

char letter_of(const Action& action) {
  const char letter = "FBIW"[std::size_t(action.kind)];
  return action.chunk % 2 == 0 ? letter : char(letter - 'A' + 'a');
}

// The longest label that fits: the whole number, its last digits, none.
std::string label_of(const Action& action, std::size_t columns, bool has_colours) {
  const std::string number = std::to_string(action.micro_batch);
  const std::string letter = has_colours ? "" : std::string(1, letter_of(action));
  if (letter.size() + number.size() <= columns) return letter + number;
  if (columns <= letter.size()) return letter.substr(0, columns);
  return letter + number.substr(number.size() - (columns - letter.size()));
}

// Of the 6 x 6 x 6 colours that all terminals with colours have.
int terminal_colour(const Colour& colour) {
  const auto step = [](std::uint8_t value) {
    return value < 48 ? 0 : value < 115 ? 1 : (value - 35) / 40;
  };
  return 16 + 36 * step(colour[0]) + 6 * step(colour[1]) + step(colour[2]);
}

std::string painted(const std::string& text, const Colour& colour) {
  return fmt::format("\033[38;5;{};48;5;{}m{}\033[0m", is_dark(colour) ? 231 : 16,
                     terminal_colour(colour), text);
}

double shortest_work(const ScheduleDrawing& drawing) {
  double shortest = std::numeric_limits<double>::infinity();
  for (const auto& row : drawing.rows)
    for (const WorkBox& box : row)
      if (box.end > box.begin) shortest = std::min(shortest, box.end - box.begin);
  return shortest;
}

// Columns a unit of time; the shortest work has a whole number of them where it has more than one.
double scale_of(const ScheduleDrawing& drawing, double columns) {
  const double shortest = shortest_work(drawing), widest = columns / drawing.makespan;
  const double of_shortest = std::min(widest * shortest, widest_unit);
  return (of_shortest >= 1 ? std::floor(of_shortest) : of_shortest) / shortest;
}

std::string row_text(const std::vector<WorkBox>& row, double scale, long columns, bool has_colours,
                     int chunks) {
  const std::string idle = has_colours ? " " : ".";
  std::string text;
  long at = 0;
  const auto advance = [&](long to) {
    for (; at < to; ++at) text += idle;
  };
  for (const WorkBox& box : row) {
    const long begin = std::max(at, std::lround(box.begin * scale));
    const long end = std::min(columns, std::lround(box.end * scale));
    if (end <= begin) continue;
    advance(begin);
    std::string label = label_of(box.action, std::size_t(end - begin), has_colours);
    label.resize(std::size_t(end - begin), has_colours ? ' ' : '-');
    text += has_colours ? painted(label, colour_of(box.action, chunks)) : label;
    at = end;
  }
  advance(columns);
  return text;
}

}  // namespace

ScheduleDrawing drawing_of(const Schedule& schedule, const Timeline& timeline) {
  ScheduleDrawing drawing;
  drawing.title = text(schedule.shape);
  drawing.chunks = schedule.shape.chunks;
  drawing.makespan = timeline.makespan;
  for (std::size_t rank = 0; rank < schedule.ranks.size(); ++rank) {
    drawing.names.push_back(fmt::format("rank {}", rank));
    auto& row = drawing.rows.emplace_back();
    for (std::size_t i = 0; i < schedule.ranks[rank].size(); ++i) {
      const Action& action = schedule.ranks[rank][i];
      const Timeline::Span& span = timeline.ranks[rank][i];
      if (is_work(action.kind)) row.push_back({action, span.begin, span.end});
    }
  }
  return drawing;
}

// Of Okabe and Ito's palette, as in charts.
Colour colour_of(const Action& action, int chunks) {
  constexpr std::array<Colour, 4> base{{{0, 114, 178}, {0, 130, 95}, {0, 130, 95}, {230, 159, 0}}};
  const double white = chunks > 1 ? 0.55 * action.chunk / (chunks - 1) : 0;
  Colour colour = base[std::size_t(action.kind)];
  for (std::uint8_t& part : colour) part = std::uint8_t(std::lround(part + (255 - part) * white));
  return colour;
}

bool is_dark(const Colour& colour) {
  return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140;
}

std::string terminal_text(const ScheduleDrawing& drawing, int columns, bool has_colours) {
  std::size_t margin = 0;
  for (const std::string& name : drawing.names) margin = std::max(margin, name.size() + 2);
  const double room = std::max(10.0, double(columns) - double(margin) - 1);
  const double scale = scale_of(drawing, room);
  const long width = std::min(std::lround(room), std::lround(drawing.makespan * scale));
  std::string text;
  for (std::size_t r = 0; r < drawing.rows.size(); ++r)
    text += fmt::format("{:<{}}{}\n", drawing.names[r], margin,
                        row_text(drawing.rows[r], scale, width, has_colours, drawing.chunks));
  return text;
}

std::string terminal_legend(const ScheduleDrawing& drawing, bool has_colours) {
  std::string text;
  for (const Kind kind : kinds) {
    const auto is_of_kind = [&](const WorkBox& box) { return box.action.kind == kind; };
    if (std::ranges::none_of(drawing.rows[0], is_of_kind)) continue;
    std::string mark;
    for (int chunk = 0; chunk < (has_colours ? drawing.chunks : 1); ++chunk) {
      const Action action{kind, chunk, 0};
      mark += has_colours ? painted("  ", colour_of(action, drawing.chunks))
                          : std::string(1, letter_of(action));
    }
    std::string words = name(kind);
    std::ranges::replace(words, '_', ' ');
    text += mark + ' ' + words + "   ";
  }
  if (has_colours) return text + (drawing.chunks > 1 ? "lighter: later chunks" : "");
  return text + (drawing.chunks > 1 ? "small: odd chunks   " : "") + ". idle";
}

}  // namespace pf
