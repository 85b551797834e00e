// Pipelines of the layouts to prove.
#pragma once

#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/dice.h"

namespace pf {

const std::vector<config::Parallel::Schedule>& all_schedules();

// Of a rank: two where the schedule has several.
std::int64_t usual_chunks(config::Parallel::Schedule schedule);

// The fewest micro-batches of a replica, `least` or more, that the schedule takes: interleaved ones
// go round the stages.
std::int64_t micro_batches_of(const config::Parallel& parallel, std::int64_t least);

// "1,3,2": another division of the layers than the even one. Throws Error where there is none.
std::string uneven_stage_layers(std::int64_t layers, std::int64_t parts, Dice& dice);

// The whole model on one rank, its micro-batches one after the other.
void set_single_stage(config::Parallel& parallel);

// " parallel.pp=2 parallel.schedule=zbv ..."
std::string stages_as_overrides(const config::Parallel& parallel);

}  // namespace pf
