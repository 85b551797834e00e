// A small model on one rank of a mesh, for tests.
#pragma once

#include "models/prove.h"
#include "tests/tensors.h"

namespace pf {

inline double distance(const StepOutcome& a, const StepOutcome& b) {
  return difference(a, b).distance;
}

}  // namespace pf
