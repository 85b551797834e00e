// Tables of numbers as coloured cells, for SVG pictures.
#pragma once

#include <string>
#include <vector>

namespace pf {

struct HeatBlock {
  std::string title;
  std::vector<std::vector<double>> rows;  // as many, and as long, as there are labels
};

// Blocks below each other. White is 0, the darkest blue `top`.
struct HeatMap {
  std::vector<std::string> rows, columns;  // labels
  std::vector<HeatBlock> blocks;
  double top = 1;
};

// In pixels.
double height_of(const HeatMap& map);

// From (x, y) on, `width` wide; labels of rows stand left of their cells, inside. Values stand in
// cells that are wide enough.
std::string drawn(const HeatMap& map, double x, double y, double width);

}  // namespace pf
