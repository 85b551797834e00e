// Panels of lines, or of coloured cells, as an SVG picture.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "launch/heat_map.h"

namespace pf {

struct ChartLine {
  std::string label;
  std::vector<double> x, y;  // y that is not finite leaves a gap
  std::size_t colour = 0;    // number in the palette
  std::size_t dash = 0;      // 0: solid
  bool is_faint = false;     // behind the others and not in the legend
  bool has_dots = false;     // few points, each of them seen
};

struct Panel {
  std::string title, unit;
  std::vector<ChartLine> lines;
  bool is_log = false;               // y, where all values are above 0
  std::optional<HeatMap> heat = {};  // instead of lines
};

// Round numbers within [low, high], about `count` of them.
std::vector<double> round_ticks(double low, double high, int count);
std::vector<double> log_ticks(double low, double high);

// "0", "250", "1.5k", "0.002".
std::string tick_text(double value);

// Two panels beside each other; x of lines is the step.
std::string svg_of(const std::string& title, const std::vector<Panel>& panels);

}  // namespace pf
