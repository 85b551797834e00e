// Optimizers under a layout, on gradients that are the same under all.
#pragma once

#include "launch/config.h"
#include "launch/prove_layouts.h"
#include "models/prove.h"
#include "optim/optimizer.h"

namespace pf {

using Weights = std::map<std::string, Numbers>;  // whole, by name

constexpr config::Optimizer::Kind proven_optimizers[] = {config::Optimizer::adamw,
                                                         config::Optimizer::muon};
const char* name_of(config::Optimizer::Kind kind);  // "AdamW"

constexpr double proven_lr = 0.1, proven_gradient_scale = 0.5;
// Gradients of a step, random numbers by global element, where a rank changes weights; what it has
// of others is NaN.
void set_random_gradients(const Visit& visit, const Gradients& gradients, const Sharing& sharing,
                          std::uint64_t seed, std::uint32_t step);

// The weights in f64 after three steps of an optimizer with the configuration's settings, but for
// lr, on thread ranks. Gradients are random numbers by global element, of what a rank changes
// alone: elsewhere they are not numbers. (Those of a descent differ by rounding, and AdamW divides
// by their size: what is a small difference in one that should be zero would be a large one here.)
Weights optimized(const config::Config& config, config::Optimizer::Kind kind);

// Prints a line for each optimizer: how far the layouts are from one rank, without ZeRO and with
// each of its stages; and one for each that differs. Returns whether none does.
bool prove_optimizers(const LayoutsOfModel& layouts);

}  // namespace pf
