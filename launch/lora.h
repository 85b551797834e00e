// Which matrices are trained by low-rank changes.
#pragma once

#include <functional>
#include <string>

#include "launch/config.pb.h"
#include "launch/freeze.h"
#include "models/layer.h"

namespace pf {

// Freezes every parameter and gives those that fit config.lora.on an adapter, still to be
// initialised; without the map, freezes what fits train.freeze. Matrices are what products alone
// use: no norms, biases, embeddings, nor a head that is one. Complains of a pattern that no matrix
// fits, and of a rank above a matrix's smaller side, or as freeze() does.
void choose_trained(const config::Train& config, const std::function<void(const Visitor&)>& visit,
                    const Complain& complain);
// Of a model that the rules have checked, or of a part of it: complains of nothing.
void choose_trained(const config::Train& config, const std::function<void(const Visitor&)>& visit);

}  // namespace pf
