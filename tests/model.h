// A small model on one rank of a mesh, for tests.
#pragma once

#include "models/prove.h"
#include "tests/tensors.h"

namespace pf {

inline double distance(const Outcome& a, const Outcome& b) {
  return difference(a, b).distance;
}

}  // namespace pf
