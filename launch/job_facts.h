// How a job's sizes are to its layout and to each other: what stays when they shrink.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "launch/config.h"

namespace pf {

// In words, and what it is in this configuration.
using Facts = std::vector<std::pair<std::string, std::int64_t>>;

// Of every size that an axis cuts: its greatest common divisor with the axis, and whether each rank
// has several, one or a part. Of every stage: whether it has one layer or several, of which kinds,
// and more or fewer than the one before. Of a step: which phases of the schedule it has. And which
// of two sizes is larger where that decides what happens (window and sequence, top_k and experts).
// Configurations of one layout and the same features have facts in the same words.
Facts facts_of(const config::Config& config);

// The first one that differs: "model.heads and parallel.tp=2 ...: 4 in the job, 1 here"; or "".
std::string first_difference(const Facts& job, const Facts& here);

}  // namespace pf
