// Which samples a step trains on, while steps grow.
#pragma once

#include <cstdint>

#include "launch/config.pb.h"

namespace pf {

struct StepBatch {
  std::int64_t first = 0;  // the first sample's number
  std::int64_t size = 0;   // samples
};

// Of step 0, 1, ...: sizes are those of train.ramp, then global_batch; a step's samples follow the
// ones before it without a gap. The first sample of step n is the number of samples in n steps.
StepBatch batch_of(const config::Train& config, std::int64_t step);

}  // namespace pf
