// How long a schedule takes: every action's begin and end, from the times of the work.
#pragma once

#include <vector>

#include "parallel/schedule.h"

namespace pf {

// In any unit, by virtual stage; a single value serves all. A backward takes input_gradient +
// weight_gradient.
struct ActionTimes {
  std::vector<double> forward{1}, input_gradient{1}, weight_gradient{1};
  double send = 0;  // from the send of a tensor to its arrival
};
// Times of a whole rank, evenly shared by its chunks.
ActionTimes even_times(const ScheduleShape& shape, double forward, double input_gradient,
                       double weight_gradient, double send = 0);

struct Timeline {
  struct Span {
    double begin = 0, end = 0;
  };
  std::vector<std::vector<Span>> ranks;  // like Schedule::ranks
  double makespan = 0;
  std::vector<double> bubbles;  // of each rank: the makespan less its work
};

// Sends and receives do not hold up their rank; work waits for what it takes. Throws Error for a
// schedule that never ends and for times that are neither one nor as many as the virtual stages.
Timeline timeline(const Schedule& schedule, const ActionTimes& times);

// The bubble of every rank as papers give it, with the times of a whole rank. If all stages take
// equally long it is exact for gpipe and 1f1b, for interleaved if F <= B + W <= 3 F, and for zbh1
// if W <= F and W <= B; for zbv it is the least that is possible (the last rank starts after p - 1
// forwards of half a stage).
double bubble_formula(const ScheduleShape& shape, double forward, double input_gradient,
                      double weight_gradient);

}  // namespace pf
