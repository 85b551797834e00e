// What the pipeline of a profiled run really did.
#pragma once

#include <string>
#include <vector>

#include "launch/schedule_drawing.h"

namespace pf {

struct MeasuredSchedule {
  Schedule schedule;  // what the run was to do
  // The work of one whole step, the last in the trace, in milliseconds from its begin; of the first
  // rank of each stage, whose number in the run stands in `ranks`.
  std::vector<std::vector<WorkBox>> rows;
  std::vector<int> ranks;
  double makespan = 0;
};

// From RUN/trace.json, where work is spans of the category "action" named like text(Action), and
// RUN/config.yaml. Throws Error with the file if there is no such work (and says how to record it)
// or if it is not in the order of the configuration's schedule.
MeasuredSchedule measured_schedule(const std::string& run);

// The mean of each virtual stage's work.
ActionTimes mean_times(const MeasuredSchedule& measured);

}  // namespace pf
