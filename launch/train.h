// Training: `pentafold train`.
#pragma once

#include "launch/config.h"

namespace pf {

// Runs the whole configuration in this process, ranks as threads. Returns the exit code: 0, or 128
// + the number of the signal that ended it after a whole step. Throws Error for everything that
// went wrong.
int train(const config::Config& config);

}  // namespace pf
