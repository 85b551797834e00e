#include "launch/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "launch/heat_map.h"
#include "launch/svg.h"

namespace pf {
namespace {

// Okabe and Ito's palette, told apart by colour-blind readers too, without its yellow.
constexpr std::array<std::string_view, 7> palette{"#0072B2", "#E69F00", "#009E73", "#CC79A7",
                                                  "#D55E00", "#56B4E9", "#555555"};
constexpr std::array<std::string_view, 4> dashes{"", "7 4", "2 3", "9 3 2 3"};

constexpr double panel_width = 600, panel_height = 330, header = 54, margin = 24;
constexpr double left = 72, right = 26, above = 44, below = 48, legend_row = 18;
constexpr std::size_t most_points = 1200;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool is_empty() const { return low > high; }
};

// From values to places on the picture.
struct Scale {
  Range range;
  double begin = 0, end = 0;
  bool is_log = false;

  double operator()(double value) const {
    const auto f = [&](double v) { return is_log ? std::log(v) : v; };
    return begin + (f(value) - f(range.low)) / (f(range.high) - f(range.low)) * (end - begin);
  }
};

// With room above and below; never of no height.
Range padded(Range range, bool is_log) {
  if (is_log) {
    const double factor = std::max(std::pow(range.high / range.low, 0.05), 1.02);
    return {range.low / factor, range.high * factor};
  }
  const double height = range.high - range.low;
  double room = 0.06 * height;
  if (height <= 1e-9 * std::abs(range.high)) room = std::max(0.1 * std::abs(range.high), 1e-6);
  return {range.low >= 0 ? std::max(0.0, range.low - room) : range.low - room, range.high + room};
}

// The lowest and the highest point of each run of neighbours, where there are more points than
// places for them.
ChartLine thinned(const ChartLine& line) {
  if (line.x.size() <= most_points) return line;
  ChartLine out = line;
  out.x.clear();
  out.y.clear();
  const std::size_t runs = most_points / 2;
  for (std::size_t r = 0; r < runs; ++r) {
    const std::size_t begin = r * line.x.size() / runs, end = (r + 1) * line.x.size() / runs;
    std::size_t low = begin, high = begin;
    for (std::size_t i = begin; i < end; ++i) {
      if (!(line.y[i] >= line.y[low])) low = i;
      if (!(line.y[i] <= line.y[high])) high = i;
    }
    for (const std::size_t i : {std::min(low, high), std::max(low, high)}) {
      out.x.push_back(line.x[i]);
      out.y.push_back(line.y[i]);
    }
  }
  return out;
}

std::string stroke(const ChartLine& line) {
  std::string out = fmt::format("stroke=\"{}\"", palette[line.colour % palette.size()]);
  if (const std::string_view dash = dashes[line.dash % dashes.size()]; !dash.empty())
    out += fmt::format(" stroke-dasharray=\"{}\"", dash);
  return out +
         (line.is_faint ? " stroke-width=\"1\" stroke-opacity=\"0.3\"" : " stroke-width=\"1.8\"");
}

std::string drawn(const ChartLine& whole, const Scale& x, const Scale& y) {
  const ChartLine line = thinned(whole);
  std::string path, dots;
  std::size_t in_piece = 0;
  for (std::size_t i = 0; i < line.x.size(); ++i) {
    if (!std::isfinite(line.y[i])) {
      in_piece = 0;
      continue;
    }
    const double at = x(line.x[i]), height = y(line.y[i]);
    path += fmt::format("{}{:.1f} {:.1f}", in_piece++ == 0 ? "M" : "L", at, height);
    const bool is_alone =
        in_piece == 1 && (i + 1 == line.x.size() || !std::isfinite(line.y[i + 1]));
    if (line.has_dots || is_alone)
      dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.8\" fill=\"{}\"/>\n", at,
                          height, palette[line.colour % palette.size()]);
  }
  return fmt::format("<path d=\"{}\" fill=\"none\" stroke-linejoin=\"round\" {}/>\n{}", path,
                     stroke(line), dots);
}

// A row of marks and names, wrapped; `rows` counts them.
std::string legend(const Panel& panel, double x, double y, double width, int& rows) {
  std::string out;
  double at = 0;
  rows = 0;
  for (const ChartLine& line : panel.lines) {
    if (line.is_faint || line.label.empty()) continue;
    const std::string label = shortened_label(line.label);
    const double wanted = 46 + text_width(label);
    if (rows == 0 || at + wanted > width) {
      at = 0;
      ++rows;
    }
    const double row = y + (rows - 1) * legend_row;
    out += fmt::format("<path d=\"M{:.1f} {:.1f}h24\" fill=\"none\" {}/>\n", x + at, row - 4,
                       stroke(line));
    out += text_at(x + at + 30, row, label, "class=\"small\"");
    at += wanted;
  }
  return out;
}

std::string axes_of(const Scale& x, const Scale& y, const std::vector<double>& x_ticks,
                    const std::vector<double>& y_ticks) {
  std::string out;
  for (const double tick : y_ticks) {
    out += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" class=\"grid\"/>\n", x.begin, y(tick),
                       x.end);
    out +=
        text_at(x.begin - 8, y(tick) + 4, tick_text(tick), "class=\"small\" text-anchor=\"end\"");
  }
  for (const double tick : x_ticks) {
    out += fmt::format("<path d=\"M{:.1f} {:.1f}v5\" class=\"axis\"/>\n", x(tick), y.begin);
    out +=
        text_at(x(tick), y.begin + 19, tick_text(tick), "class=\"small\" text-anchor=\"middle\"");
  }
  out +=
      fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" class=\"axis\"/>\n", x.begin, y.begin, x.end);
  return out + text_at((x.begin + x.end) / 2, y.begin + 37, "step",
                       "class=\"small\" text-anchor=\"middle\"");
}

// The steps and values of all points.
void add_range(const Panel& panel, Range& steps, Range& values) {
  for (const ChartLine& line : panel.lines) {
    for (std::size_t i = 0; i < line.x.size(); ++i) {
      if (!std::isfinite(line.y[i])) continue;
      steps.add(line.x[i]);
      values.add(line.y[i]);
    }
  }
}

double height_of(const Panel& panel) {
  return panel.heat ? above + height_of(*panel.heat) + below : panel_height;
}

std::string drawn(const Panel& panel, Range steps, double x0, double y0) {
  int rows = 0;
  const double inner = panel_width - left - right;
  std::string out = fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"title\">{}<tspan class=\"small\" "
      "font-weight=\"normal\" dx=\"10\">{}</tspan></text>\n",
      x0 + left, y0 + 18, svg_escaped(panel.title), svg_escaped(panel.unit));
  if (panel.heat) return out + drawn(*panel.heat, x0 + left, y0 + above - 12, inner);
  out += legend(panel, x0 + left, y0 + 38, inner, rows);

  Range own_steps, values;
  add_range(panel, own_steps, values);
  const double top = y0 + above + std::max(0, rows - 1) * legend_row + (rows > 0 ? 6 : -12);
  const double bottom = y0 + panel_height - below;
  if (values.is_empty())
    return out + text_at(x0 + panel_width / 2, (top + bottom) / 2, "no points yet",
                         "class=\"small\" text-anchor=\"middle\"");
  const bool can_be_log = panel.is_log && values.low > 0;
  if (steps.low == steps.high) steps = {steps.low - 1, steps.high + 1};
  const Scale x{steps, x0 + left, x0 + panel_width - right, false};
  const Scale y{padded(values, can_be_log), bottom, top, can_be_log};
  std::vector<double> y_ticks =
      can_be_log ? log_ticks(y.range.low, y.range.high) : round_ticks(y.range.low, y.range.high, 6);
  if (y_ticks.size() < 2) y_ticks = round_ticks(y.range.low, y.range.high, 6);
  std::vector<double> x_ticks = round_ticks(x.range.low, x.range.high, 6);
  std::erase_if(x_ticks, [](double tick) { return tick != std::floor(tick) || tick < 0; });
  out += axes_of(x, y, x_ticks, y_ticks);
  for (const bool faint : {true, false})
    for (const ChartLine& line : panel.lines)
      if (line.is_faint == faint) out += drawn(line, x, y);
  return out;
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * power >= rough * 0.999) step = factor * power;
  std::vector<double> ticks;
  const auto first = std::llround(std::ceil(low / step - 1e-9));
  const auto last = std::llround(std::floor(high / step + 1e-9));
  for (auto i = first; i <= last; ++i) ticks.push_back(double(i) * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  const auto first = std::lround(std::floor(std::log10(low)));
  const auto last = std::lround(std::floor(std::log10(high)));
  for (auto decade = first; decade <= last; ++decade) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10.0, double(decade));
      if (tick >= low && tick <= high) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.4g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (size >= 1e3) return fmt::format("{:.4g}k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

std::string svg_of(const std::string& title, const std::vector<Panel>& panels) {
  const std::size_t columns = panels.size() > 1 ? 2 : 1;
  const double width = double(columns) * panel_width + 2 * margin;
  std::vector<double> tops{header};  // of each row of panels
  for (std::size_t i = 0; i < panels.size(); i += columns) {
    double row = height_of(panels[i]);
    if (i + 1 < panels.size() && columns > 1) row = std::max(row, height_of(panels[i + 1]));
    tops.push_back(tops.back() + row);
  }
  const double height = tops.back() + margin;
  std::string out = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}">
<style>
text {{ font-family: "DejaVu Sans", Helvetica, Arial, sans-serif; fill: #222 }}
.head {{ font-size: 18px; font-weight: bold }}
.title {{ font-size: 14px; font-weight: bold }}
.small {{ font-size: 12px; fill: #555 }}
.cell {{ font-size: 10px; text-anchor: middle }}
.grid {{ stroke: #e4e4e4; stroke-width: 1 }}
.axis {{ stroke: #888; stroke-width: 1 }}
</style>
<rect width="{0}" height="{1}" fill="white"/>
)",
      width, height);
  out += text_at(margin + left, 36, title, "class=\"head\"");
  Range steps, values;
  for (const Panel& panel : panels) add_range(panel, steps, values);
  for (std::size_t i = 0; i < panels.size(); ++i) {
    const std::size_t row = i / columns, column = i % columns;
    out += drawn(panels[i], steps, margin + double(column) * panel_width, tops[row]);
  }
  return out + "</svg>\n";
}

}  // namespace pf
