// Training: `pentafold train`.
#pragma once

#include "launch/config.h"
#include "parallel/mpi.h"

namespace pf {

// Runs the whole configuration: ranks are threads of this process or, with `mpi`, this process is
// one of them. Returns the exit code: 0, or 128 + the number of the signal that ended it after a
// whole step. Throws Error for everything that went wrong.
int train(const config::Config& config, const Mpi* mpi = nullptr);

}  // namespace pf
