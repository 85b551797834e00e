// What a layout asks of the ranks and of the model.
#pragma once

#include "launch/config.pb.h"
#include "launch/config_fill.h"

namespace pf {

// Throws Error unless tp x cp x pp and etp x ep x pp divide the ranks. Comes before anything that
// needs dp.
void check_ranks_divide(const config::Config& config, const Places& places);

// Throws Error unless the model can be cut so.
void check_layout(const config::Config& config, const Places& places);

// Throws Error for what the schema knows and training does not do yet.
void check_supported(const config::Config& config, const Places& places);

}  // namespace pf
