// Shapes of schedules for tests.
#pragma once

#include <vector>

#include "parallel/schedule.h"

namespace pf {

// All kinds with 1 to 8 stages, 1 to 4 chunks and every legal number of micro-batches up to 3p + 2.
inline std::vector<ScheduleShape> many_shapes() {
  std::vector<ScheduleShape> shapes;
  for (int p = 1; p <= 8; ++p) {
    for (int m = 1; m <= 3 * p + 2; ++m) {
      for (const auto kind :
           {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble_h1})
        shapes.push_back({kind, p, 1, m});
      shapes.push_back({ScheduleKind::zero_bubble_v, p, 2, m});
      for (int v = 1; v <= 4 && m % p == 0; ++v)
        shapes.push_back({ScheduleKind::interleaved, p, v, m});
    }
  }
  return shapes;
}

}  // namespace pf
