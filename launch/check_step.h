// What a training step needs of one rank, found by taking it: without memory on the meta backend,
// and the same with it.
#pragma once

#include <cstdint>
#include <vector>

#include "launch/config.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace pf {

// Bytes as asked for; an allocator may keep up to an eighth more.
struct RankNeeds {
  int rank = 0, stage = 0;
  std::int64_t layers = 0;      // embedding and head counted
  std::int64_t parameters = 0;  // that the rank has a block of, whole or a slice
  std::int64_t weights = 0;     // values of parameters
  std::int64_t gradients = 0;   // with what aligns them and weights, and tables of positions
  std::int64_t states = 0;      // the optimizer's
  std::int64_t copies = 0;      // packed, for products
  std::int64_t peak = 0;        // of all
  std::vector<Traffic> traffic = {};

  // Between steps.
  std::int64_t held() const { return weights + gradients + states + copies; }
  // What comes on top within a step: activations, workspaces, buffers of collectives.
  std::int64_t activations() const { return peak - held(); }
};

// The first step of training, from made-up tokens: what it needs does not depend on them, unless
// routing is uneven. All ranks of the communicator call, or it is a FakeCommunicator. `device` is
// new. Throws Error for types, shapes and labels that do not fit.
RankNeeds needs_of_step(const config::Config& config, Communicator& communicator, Device& device);

// Of each stage the rank that needs the most: those of a stage do the same work on blocks of the
// same shapes, but for a vocabulary that tp does not divide, of which the last tp rank has the
// largest part, micro-batches of which the last is shorter, of which the first replica has none,
// and slices of ZeRO, which are largest on the first ranks.
std::vector<int> ranks_that_differ(const config::Config& config);

// needs_of_step() of those ranks, in turn, without memory and other ranks.
std::vector<RankNeeds> needs_of_stages(const config::Config& config);

// The largest train.micro_batch with which all stages need at most `memory` bytes, if smaller ones
// do too; 0 if none does. Sizes that the rules of a step refuse are left out.
std::int64_t largest_micro_batch(const config::Config& config, std::int64_t memory);

}  // namespace pf
