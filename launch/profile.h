// `--profile`: what every rank does in some steps, as a file for trace viewers.
#pragma once

#include <cstdint>
#include <string>

#include "core/trace.h"

namespace pf {

class Communicator;

struct ProfiledSteps {
  std::int64_t first = 0, last = 0;  // from 1, as people count; 0: none
};

// Of a run that takes steps before + 1 to `steps`: "4", "3-5", or "auto": three steps once things
// have settled, or the last ones of a shorter run. Throws Error unless the steps are among them.
ProfiledSteps profiled_steps(const std::string& text, std::int64_t steps, std::int64_t before = 0);

// Events as Chrome's JSON objects, one a line, with a comma after each but the last: a process a
// rank; times in microseconds since `begin`, which every rank takes at the same moment.
std::string trace_events(int rank, const Trace& trace, std::int64_t begin);

// All ranks call it. Rank 0 writes FOLDER/trace.json, which Perfetto opens, and returns a line that
// says so, or why not; the others return "".
std::string write_trace(Communicator& communicator, const std::string& folder, const Trace& trace,
                        std::int64_t begin);

}  // namespace pf
