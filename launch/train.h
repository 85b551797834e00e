// Training: `pentafold train`.
#pragma once

#include <functional>
#include <string>

#include "launch/config.h"
#include "launch/config_fill.h"
#include "parallel/mpi.h"

namespace pf {

struct TrainOptions {
  Places places = {"configuration", {}};  // of the keys, for errors
  std::string profile;                    // of --profile: see profiled_steps(); empty: none
  std::function<void()> on_begin;  // data and run folder are there: what fails from now on is no
                                   // wrong input
};

// Runs the whole configuration: ranks are threads of this process or, with `mpi`, this process is
// one of them. Returns the exit code: 0, or 128 + the number of the signal that ended it after a
// whole step. Throws Error for everything that went wrong.
int train(const config::Config& config, const Mpi* mpi = nullptr, const TrainOptions& options = {});

}  // namespace pf
