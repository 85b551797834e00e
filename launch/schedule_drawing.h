// The work of a pipeline's ranks as boxes along time, for terminals and as a picture.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/timeline.h"

namespace pf {

struct WorkBox {
  Action action;
  double begin = 0, end = 0;
};

struct ScheduleDrawing {
  std::string title, unit;  // unit: of time, "" or "ms"
  int chunks = 1;
  std::vector<std::string> names;          // of the rows, "rank 0"
  std::vector<std::vector<WorkBox>> rows;  // in the order of their begins
  std::vector<std::string> remarks;        // of the rows, shown at their ends in a picture
  double makespan = 0;
};

// The work of a schedule; transfers are not drawn.
ScheduleDrawing drawing_of(const Schedule& schedule, const Timeline& timeline);

using Colour = std::array<std::uint8_t, 3>;
// By kind of work, lighter for later chunks.
Colour colour_of(const Action& action, int chunks);
bool is_dark(const Colour& colour);

// A line a row, at most `columns` wide. A box has its micro-batch's number; with colours its kind
// is one, without it is a letter before the number, small for odd chunks. What has no room is left
// out: first the number's front, then all of it.
std::string terminal_text(const ScheduleDrawing& drawing, int columns, bool has_colours);
// What colours or letters mean.
std::string terminal_legend(const ScheduleDrawing& drawing, bool has_colours);

// One above the other; those of one unit have one scale.
std::string svg_of(const std::vector<ScheduleDrawing>& drawings);

}  // namespace pf
