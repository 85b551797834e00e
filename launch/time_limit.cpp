#include "launch/time_limit.h"

#include <algorithm>

namespace pf {

bool must_end(const TimeSpent& spent, double limit) {
  constexpr double slower = 1.25;
  const double first_save = std::min(60.0, limit / 20) / slower;
  const double needed = slower * (spent.slowest_step + spent.last_save.value_or(first_save));
  return limit > 0 && spent.since_start + needed > limit;
}

}  // namespace pf
