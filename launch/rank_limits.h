// How many ranks a machine can hold, known before any of them starts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "launch/config.h"
#include "parallel/mpi.h"

namespace pf {

// What the ranks that start on one machine may use of it.
struct Machine {
  std::int64_t ranks = 1;  // of this run, on it
  std::int64_t memory = 0, threads = 0;
  bool has_processes = false;  // ranks are processes, not threads
};
Machine this_machine(const config::Config& config, const Mpi* mpi);

// In bytes, of one rank: cluster.memory, or its share of the machine.
std::size_t memory_of_rank(const config::Config& config, const Machine& machine);

// Throws Error, with the most ranks that fit, if a rank's memory can't hold what it has from the
// first step on (weights, their packed copies, gradients, the optimizer's state and a thread), or
// if the machine can't start its threads. Asks a model on the meta backend.
void check_ranks(const config::Config& config, const Machine& machine);

}  // namespace pf
