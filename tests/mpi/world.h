// The MPI world of this test program.
#pragma once

#include "parallel/mpi.h"

namespace pf {

const Mpi& world();

}  // namespace pf
