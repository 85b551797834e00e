// How two checkpoints differ.
#pragma once

#include <string>

#include "parallel/checkpoint_files.h"

namespace pf {

struct CheckpointDifference {
  std::string text;       // lines
  bool is_equal = false;  // in step and tensors, bit by bit
};

// The parts of both were verified. `weights_only`: no other tensors.
CheckpointDifference difference_of(const Checkpoint& a, const Checkpoint& b, bool weights_only);

}  // namespace pf
