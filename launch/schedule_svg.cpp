#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "launch/chart.h"
#include "launch/schedule_drawing.h"
#include "launch/svg.h"

namespace pf {
namespace {

using Kind = Action::Kind;

constexpr double margin = 28, left = 74, right = 190, row_height = 30, row_gap = 7;
constexpr double head = 62, foot = 62, digit = 6.8, least_width = 760, most_width = 4000;
constexpr double number_room = 17;  // pixels that a two-digit number wants

std::string hex(const Colour& colour) {
  return fmt::format("#{:02x}{:02x}{:02x}", colour[0], colour[1], colour[2]);
}

double shortest_work(const std::vector<ScheduleDrawing>& drawings, double makespan) {
  double shortest = 1;
  for (const ScheduleDrawing& drawing : drawings)
    for (const auto& row : drawing.rows)
      for (const WorkBox& box : row)
        if (box.end > box.begin) shortest = std::min(shortest, (box.end - box.begin) / makespan);
  return shortest;
}

std::string box_of(const WorkBox& box, double scale, double x0, double y, int chunks) {
  const Colour colour = colour_of(box.action, chunks);
  const double x = x0 + box.begin * scale, width = (box.end - box.begin) * scale;
  std::string out = fmt::format(
      R"(<rect x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}" rx="{}" fill="{}"><title>{}: {:.6g} to {:.6g}</title></rect>
)",
      x, y, std::max(0.2, width - 0.8), row_height, width > 8 ? 2.5 : 0, hex(colour),
      text(box.action), box.begin, box.end);
  const std::string number = std::to_string(box.action.micro_batch);
  if (width < digit * double(number.size()) + 3) return out;
  return out + text_at(x + width / 2, y + row_height / 2 + 4, number,
                       fmt::format("class=\"number\" fill=\"{}\"",
                                   is_dark(colour) ? "#ffffff" : "#222222"));
}

// A square a chunk and the kind's name.
std::string legend(const ScheduleDrawing& drawing, double x, double y) {
  std::string out;
  for (const Kind kind :
       {Kind::forward, Kind::backward, Kind::input_gradient, Kind::weight_gradient}) {
    const auto is_of_kind = [&](const WorkBox& box) { return box.action.kind == kind; };
    if (std::ranges::none_of(drawing.rows[0], is_of_kind)) continue;
    for (int chunk = 0; chunk < drawing.chunks; ++chunk) {
      out += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"14\" height=\"14\" rx=\"2.5\" fill=\"{}\"/>\n",
          x, y - 11, hex(colour_of({kind, chunk, 0}, drawing.chunks)));
      x += 16;
    }
    std::string words = name(kind);
    std::ranges::replace(words, '_', ' ');
    out += text_at(x + 4, y, words, "class=\"small\"");
    x += 24 + digit * double(words.size());
  }
  if (drawing.chunks > 1) out += text_at(x, y, "lighter: later chunks", "class=\"small\"");
  return out;
}

std::string time_axis(const ScheduleDrawing& drawing, double scale, double top, double bottom) {
  std::string out;
  const double x0 = margin + left;
  for (const double tick : round_ticks(0, drawing.makespan, 10)) {
    const double x = x0 + tick * scale;
    out += fmt::format("<path d=\"M{:.1f} {:.1f}V{:.1f}\" class=\"grid\"/>\n", x, top, bottom);
    out += text_at(x, bottom + 18, tick_text(tick), "class=\"small\" text-anchor=\"middle\"");
  }
  const std::string unit = drawing.unit.empty() ? "time" : "time, " + drawing.unit;
  return out + text_at(x0 + drawing.makespan * scale / 2, bottom + 36, unit,
                       "class=\"small\" text-anchor=\"middle\"");
}

double height_of(const ScheduleDrawing& drawing) {
  return head + double(drawing.rows.size()) * (row_height + row_gap) + foot;
}

std::string drawn(const ScheduleDrawing& drawing, double scale, double y0) {
  const double x0 = margin + left, width = drawing.makespan * scale;
  std::string out = text_at(x0, y0 + 18, drawing.title, "class=\"title\"");
  out += legend(drawing, x0, y0 + 42);
  const double top = y0 + head;
  const double bottom = top + double(drawing.rows.size()) * (row_height + row_gap);
  std::string boxes;
  for (std::size_t r = 0; r < drawing.rows.size(); ++r) {
    const double y = top + double(r) * (row_height + row_gap), text_y = y + row_height / 2 + 4;
    out += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"3\" "
        "class=\"idle\"/>\n",
        x0, y, width, row_height);
    out += text_at(x0 - 10, text_y, drawing.names[r], "class=\"small\" text-anchor=\"end\"");
    if (r < drawing.remarks.size())
      out += text_at(x0 + width + 12, text_y, drawing.remarks[r], "class=\"small\"");
    for (const WorkBox& box : drawing.rows[r]) boxes += box_of(box, scale, x0, y, drawing.chunks);
  }
  return out + time_axis(drawing, scale, top - 4, bottom) + boxes;
}

}  // namespace

std::string svg_of(const std::vector<ScheduleDrawing>& drawings) {
  double longest = 0, height = 2 * margin;
  for (const ScheduleDrawing& drawing : drawings) {
    longest = std::max(longest, drawing.makespan);
    height += height_of(drawing);
  }
  const double inner =
      std::clamp(number_room / shortest_work(drawings, longest), least_width, most_width);
  std::string out = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}">
<style>
text {{ font-family: "DejaVu Sans", Helvetica, Arial, sans-serif }}
.title {{ font-size: 16px; font-weight: bold; fill: #222 }}
.small {{ font-size: 12px; fill: #555 }}
.number {{ font-size: 11px; text-anchor: middle }}
.grid {{ stroke: #d8d8d8; stroke-width: 1 }}
.idle {{ fill: #f1f1f1 }}
</style>
<rect width="{0}" height="{1}" fill="white"/>
)",
      int(inner + 2 * margin + left + right), int(height));
  double y = margin;
  for (const ScheduleDrawing& drawing : drawings) {
    const bool has_own = drawing.unit != drawings[0].unit;
    out += drawn(drawing, inner / (has_own ? drawing.makespan : longest), y);
    y += height_of(drawing);
  }
  return out + "</svg>\n";
}

}  // namespace pf
