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

// How many forwards of interleaved chunks a rank runs before it alternates.
int interleaved_ahead(const ScheduleShape& shape, int rank);

// Adds sends and receives.
Schedule with_transfers(const ScheduleShape& shape, const WorkOrder& order);

}  // namespace pf
