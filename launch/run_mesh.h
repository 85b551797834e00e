// What a configuration says of ranks and numbers, in the types of the layers below.
#pragma once

#include "core/dtype.h"
#include "launch/config.h"
#include "models/pipeline.h"
#include "parallel/gradients.h"
#include "parallel/mesh.h"

namespace pf {

// Of activations.
DType type_of(config::Run::Precision precision);

// With `ranks` ranks, a multiple of those that the axes but dp and edp need.
Layout layout_of(const config::Config& config, std::int64_t ranks);
Layout layout_of(const config::Config& config);  // with parallel.ranks

// How the model is made for this rank of the mesh.
ModelOptions options_of(const config::Config& config, const Mesh& mesh);

ScheduleKind schedule_of(const config::Config& config);
// Of a step with so many micro-batches of a replica.
ScheduleShape shape_of(const config::Config& config, int micro_batches);
// Micro-batches whose choices are counted together; `dp` where none are.
std::int64_t balance_group(const config::Config& config, std::int64_t dp);
// How many micro-batches of a replica in a row have their experts' choices counted together.
std::int64_t steps_together(const config::Config& config);
// Of its virtual stages. Throws Error where parallel.stage_layers does not fit.
std::vector<LayerRange> stages_of(const config::Config& config);

// How replicas divide the optimizer's work.
Sharing sharing_of(const config::Config& config);
// What backward makes again.
Recompute recompute_of(const config::Train& train);

}  // namespace pf
