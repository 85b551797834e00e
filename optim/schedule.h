// The learning rate of each step.
#pragma once

#include <cstdint>

#include "optim/optimizer.pb.h"

namespace pf {

// Of step 0, 1, ...: rises linearly over `warmup` steps, times a half cosine from 1 at step 0 to
// final_lr_share at step `steps` (Loshchilov and Hutter 2017, equation 5), or times 1.
double learning_rate(const config::Optimizer& config, std::int64_t step, std::int64_t steps);

}  // namespace pf
