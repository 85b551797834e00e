// What a configuration says of ranks and numbers, in the types of the layers below.
#pragma once

#include "core/dtype.h"
#include "launch/config.h"
#include "models/transformer.h"
#include "parallel/gradients.h"
#include "parallel/mesh.h"

namespace pf {

// Of activations.
DType type_of(config::Run::Precision precision);

// With `ranks` ranks, a multiple of those that the axes but dp and edp need.
Layout layout_of(const config::Config& config, std::int64_t ranks);
Layout layout_of(const config::Config& config);  // with parallel.ranks

// How replicas divide the optimizer's work.
Sharing sharing_of(const config::Config& config);
// What backward makes again.
Recompute recompute_of(const config::Train& train);

}  // namespace pf
