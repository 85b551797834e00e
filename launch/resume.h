// Which checkpoint a run goes on from.
#pragma once

#include <string>
#include <vector>

#include "parallel/checkpoint_files.h"
#include "parallel/communicator.h"

namespace pf {

struct ChosenCheckpoint {
  std::string folder;  // empty: a run that begins
  CheckpointFacts facts;
  std::vector<std::string> refused;  // what is wrong with those before it
};

// The first of `candidates`, which rank 0 has, that is whole: all of its bytes were read, which
// ranks divide among them. All ranks call. Throws Error if there are some and none is whole.
ChosenCheckpoint choose_checkpoint(Communicator& communicator,
                                   const std::vector<std::string>& candidates);

}  // namespace pf
