// The smallest job that is cut like a large one.
#pragma once

#include <string>
#include <vector>

#include "launch/config.h"

namespace pf {

// A configuration with the same layout, schedule and features, legal like the job, of which
// facts_of() are the job's and no size can be smaller while the others stay. Sizes are large
// enough for numbers to differ (hidden 10, a vocabulary of 23, sequences of 12 tokens) where the
// job's are; model.init_std is at least 0.2: with small widths less would hide what parts
// add, and in deep models more would make rounding grow. The step is that after train.ramp, and of
// the machine only the ranks stay.
config::Config shrink_job(const config::Config& job);

// A key whose value is another, as text.
struct ChangedKey {
  std::string key, job, here;
};
std::vector<ChangedKey> changed_keys(const config::Config& job, const config::Config& here);

}  // namespace pf
