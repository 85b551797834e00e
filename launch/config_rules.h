// What the parts of a configuration ask of each other.
#pragma once

#include "launch/config.pb.h"
#include "launch/config_fill.h"

namespace pf {

// Throws Error unless a resolved configuration whose layout is sound obeys every other rule, but
// for check_steps().
void check_rules(const config::Config& config, const Places& places);

// Throws Error unless the layout's replicas can divide the micro-batches of every step.
void check_steps(const config::Config& config, const Places& places);

// Whether some layer has an MLP that every token goes through alone.
bool has_dense_layers(const config::Model& model);

// Whether the balance loss counts micro-batches together, so that its group matters.
bool counts_groups(const config::Balance& balance);

}  // namespace pf
