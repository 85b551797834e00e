// How fast this machine does a model's products alone.
#pragma once

#include "models/layer.h"
#include "parallel/gradients.h"

namespace pf {

// Seconds for all of this rank's products of one micro-batch of `tokens` tokens: forward, input
// gradient and what weight work there is of every pack, experts with the counts that `top_k` of
// them get when balanced. The best of three, after one that fills caches. Clears `gradients`, whose
// layer i is layers[i]. All ranks call it.
double gemm_seconds(Layers& layers, Gradients& gradients, const Mesh& mesh, std::int64_t tokens,
                    std::int64_t top_k, DType type);

}  // namespace pf
