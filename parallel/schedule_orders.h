// The work of each rank in the order that a kind of schedule prescribes, without sends and
// receives.
#pragma once

#include <vector>

#include "parallel/schedule.h"

namespace pf {

using WorkOrder = std::vector<std::vector<Action>>;  // by stage rank

WorkOrder gpipe_order(const ScheduleShape& shape);
WorkOrder one_f_one_b_order(const ScheduleShape& shape);
WorkOrder interleaved_order(const ScheduleShape& shape);
WorkOrder zero_bubble_h1_order(const ScheduleShape& shape);
WorkOrder zero_bubble_v_order(const ScheduleShape& shape);

// How many forwards of interleaved chunks a rank runs before it alternates.
int interleaved_ahead(const ScheduleShape& shape, int rank);

// Of one chunk, in any unit.
struct WorkTimes {
  double forward = 1, input_gradient = 1, weight_gradient = 1;
};
// When each work ends if sends take no time. Throws Error for an order that waits for itself.
std::vector<std::vector<double>> work_ends(const ScheduleShape& shape, const WorkOrder& order,
                                           const WorkTimes& times);

// Adds sends and receives. Throws Error for an order that waits for itself.
Schedule with_transfers(const ScheduleShape& shape, const WorkOrder& order);

}  // namespace pf
