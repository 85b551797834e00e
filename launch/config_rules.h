// What the parts of a configuration ask of each other.
#pragma once

#include "launch/config.pb.h"
#include "launch/config_fill.h"

namespace pf {

// Throws Error unless tp x cp x pp and etp x ep x pp divide the ranks. Comes before anything that
// needs dp.
void check_layout(const config::Config& config, const Places& places);

// Throws Error unless a resolved configuration whose layout is sound obeys every other rule, but
// for check_steps().
void check_rules(const config::Config& config, const Places& places);

// Throws Error unless the layout's replicas can divide the micro-batches of every step.
void check_steps(const config::Config& config, const Places& places);

// Throws Error for what the schema knows and training does not do yet.
void check_supported(const config::Config& config, const Places& places);

// Whether the balance loss counts micro-batches together, so that its group matters.
bool counts_groups(const config::Balance& balance);

}  // namespace pf
