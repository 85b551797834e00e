// The numbers in a checkpoint's tensors, read a block at a time.
#pragma once

#include <cstdint>

#include "parallel/checkpoint_files.h"

namespace pf {

// Of the elements that are numbers; 0 if none is.
struct ValueStatistics {
  double min = 0, max = 0, mean = 0, norm = 0;
  std::int64_t nan = 0;
};

struct ValueDistance {
  std::int64_t different = 0;  // elements whose bits differ
  double relative = 0;  // the largest distance, by the largest value of either; infinite where one
                        // alone is a number
};

// The parts of each checkpoint were verified. Need some MiB, however large the tensor is.
ValueStatistics statistics_of(const Checkpoint& checkpoint, const SavedTensor& tensor);
// Both checkpoints have it, of the same type and shape.
ValueDistance distance_of(const Checkpoint& a, const Checkpoint& b, const SavedTensor& tensor);

}  // namespace pf
