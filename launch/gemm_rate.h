// How fast this machine does a model's products alone.
#pragma once

#include "models/layer.h"

namespace pf {

// Seconds for all products of one micro-batch of `tokens` tokens on this rank: forward, input
// gradient and what weight work there is of every pack, experts with the counts that `top_k` of
// them get when balanced. The best of three, after one that fills caches. Overwrites gradients.
double gemm_seconds(Layers& layers, std::int64_t tokens, std::int64_t top_k, DType type);

}  // namespace pf
