// When a run with a time limit ends.
#pragma once

#include <optional>

namespace pf {

// Exit code of a run that its time limit ended and that can be gone on with (EX_TEMPFAIL).
constexpr int time_limit_code = 75;

// Seconds.
struct TimeSpent {
  double since_start = 0;                // of the process
  double slowest_step = 0;               // with what lies between two steps
  std::optional<double> last_save = {};  // that the last checkpoint took until it was whole
};

// Whether to end now rather than take another step: after one more, a checkpoint may no longer be
// whole before `limit` seconds (0: no limit). Steps and saves are taken to last a quarter longer
// than they did; the first save a twentieth of the limit, at most a minute.
bool must_end(const TimeSpent& spent, double limit);

}  // namespace pf
