// Under mpirun: every rank runs all tests side by side, and a failure on any fails the run.
#include <gtest/gtest.h>

#include "tests/mpi/world.h"

namespace pf {
namespace {
const Mpi* the_world = nullptr;
}

const Mpi& world() {
  return *the_world;
}

}  // namespace pf

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const pf::Mpi mpi;
  pf::the_world = &mpi;
  return RUN_ALL_TESTS();
}
