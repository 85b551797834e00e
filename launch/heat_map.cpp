#include "launch/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launch/svg.h"

namespace pf {
namespace {

constexpr double cell_height = 15, title_height = 20, labels_height = 18, gap = 8;

double labels_width(const std::vector<std::string>& labels) {
  double width = 0;
  for (const std::string& label : labels)
    width = std::max(width, text_width(shortened_label(label)));
  return width + gap;
}

// Between white and the palette's blue.
std::string colour_of(double part) {
  const double p = std::clamp(part, 0.0, 1.0);
  const auto mix = [p](double blue) { return int(std::lround(255 + p * (blue - 255))); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0x00), mix(0x72), mix(0xb2));
}

std::string cell(double value, double top, double x, double y, double width) {
  if (!std::isfinite(value)) return "";
  std::string out =
      fmt::format("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\"/>\n",
                  x, y, width, cell_height - 1, colour_of(value / top));
  if (width >= 30)
    out += text_at(x + width / 2, y + cell_height - 4, fmt::format("{:.2f}", value),
                   value > 0.6 * top ? "class=\"cell\" style=\"fill:white\"" : "class=\"cell\"");
  return out;
}

// Where they fit: each, or else the first and the last.
std::string column_labels(const std::vector<std::string>& labels, double x, double y,
                          double width) {
  std::string out;
  const bool has_room = std::ranges::all_of(
      labels, [&](const std::string& label) { return text_width(label) + 2 <= width; });
  for (std::size_t c = 0; c < labels.size(); ++c)
    if (has_room || c == 0 || c + 1 == labels.size())
      out += text_at(x + (double(c) + 0.5) * width, y, shortened_label(labels[c]),
                     "class=\"small\" text-anchor=\"middle\"");
  return out;
}

}  // namespace

double height_of(const HeatMap& map) {
  return double(map.blocks.size()) * (title_height + double(map.rows.size()) * cell_height) +
         labels_height;
}

std::string drawn(const HeatMap& map, double x, double y, double width) {
  const double left = labels_width(map.rows);
  const double cell_width = (width - left) / double(std::max<std::size_t>(1, map.columns.size()));
  std::string out;
  for (const HeatBlock& block : map.blocks) {
    out += text_at(x + left, y + title_height - 5, shortened_label(block.title), "class=\"small\"");
    y += title_height;
    for (std::size_t r = 0; r < block.rows.size(); ++r) {
      out += text_at(x + left - gap, y + cell_height - 4, shortened_label(map.rows[r]),
                     "class=\"small\" text-anchor=\"end\"");
      for (std::size_t c = 0; c < block.rows[r].size(); ++c)
        out += cell(block.rows[r][c], map.top, x + left + double(c) * cell_width, y, cell_width);
      y += cell_height;
    }
  }
  return out + column_labels(map.columns, x + left, y + labels_height - 4, cell_width);
}

}  // namespace pf
