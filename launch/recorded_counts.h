// What the routers of a run decided, as its profile has it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pf {

// What one rank read of it in a step: the counts of rows that became shapes, call by call.
struct RecordedStep {
  std::int64_t step = 0;  // from 1
  std::vector<std::vector<std::int64_t>> counts = {};
};

// By rank, the steps of a trace.json (launch/profile.h), in order. Throws Error with the line for
// what is none, has no step, or not the same steps of all `ranks`.
std::vector<std::vector<RecordedStep>> recorded_counts(const std::string& path, std::int64_t ranks);

}  // namespace pf
