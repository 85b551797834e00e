// What a training step needs of one rank, found by taking it: without memory on the meta backend,
// and the same with it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/device.h"
#include "launch/config.h"
#include "launch/recorded_counts.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace pf {

// Bytes as asked for; an allocator may keep up to an eighth more.
struct RankNeeds {
  int rank = 0, stage = 0;
  std::int64_t layers = 0;      // embedding and head counted
  std::int64_t parameters = 0;  // that the rank has a block of, whole or a slice
  // Held between steps, with what aligns them.
  std::int64_t weights = 0;  // values of parameters
  std::int64_t gradients = 0;
  std::int64_t states = 0;  // the optimizer's
  std::int64_t copies = 0;  // packed, for products
  std::int64_t other = 0;   // tables of positions
  std::int64_t peak = 0;    // of all
  // What is at the peak beside what is held: activations, workspaces, buffers.
  std::map<Purpose, std::int64_t> on_top = {};
  std::int64_t most_buffers = 0;  // of calls between ranks, at once; seldom at the peak
  // Of a copy of what the rank saves, which it has from its first checkpoint on if there is room.
  std::int64_t saved = 0;
  double flops = 0;  // of products and attention in a step, with what recompute repeats
  std::vector<Traffic> traffic = {};  // of a step

  std::int64_t held() const { return weights + gradients + states + copies + other; }
  std::int64_t buffers() const;      // of calls between ranks, at the peak
  std::int64_t activations() const;  // all else on top
};

// Training steps from made-up tokens: what they need does not depend on them, unless routing is
// uneven. `steps`: their numbers, from 0; the first is taken twice, since it makes what later ones
// find. None: the last of the run, which has the whole batch. All ranks of the communicator call,
// or it is a FakeCommunicator. `device` is new. Throws Error for types, shapes and labels that do
// not fit.
RankNeeds needs_of_step(const config::Config& config, Communicator& communicator, Device& device,
                        std::vector<std::int64_t> steps = {});

// Of each stage the rank that needs the most: those of a stage do the same work on blocks of the
// same shapes, but for a vocabulary that tp does not divide, of which the last tp rank has the
// largest part, micro-batches of which the last is shorter, of which the first replica has none,
// and slices of ZeRO, which are largest on the first ranks.
std::vector<int> ranks_that_differ(const config::Config& config);

// needs_of_step() of those ranks, in turn, without memory and other ranks: experts have equal
// shares of the tokens.
std::vector<RankNeeds> needs_of_stages(const config::Config& config);

// With what routers decided in some steps of a run with this layout and these batches, by rank: of
// each stage the rank that needs the most. Throws Error where the counts are not of such a run.
std::vector<RankNeeds> needs_of_stages(const config::Config& config,
                                       const std::vector<std::vector<RecordedStep>>& recorded);

// The largest train.micro_batch with which all stages need at most `memory` bytes, if smaller ones
// do too; 0 if none does. Sizes that the rules of a step refuse are left out.
std::int64_t largest_micro_batch(const config::Config& config, std::int64_t memory);

}  // namespace pf
