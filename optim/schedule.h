// The learning rate of each step.
#pragma once

#include <cstdint>

#include "optim/optimizer.pb.h"

namespace pf {

// Of step 0, 1, ... of `steps`: lr times a linear rise over `warmup` steps, times, by `decay`,
//   constant      1
//   cosine        half a cosine from step 0 to `steps` (Loshchilov and Hutter 2017, equation 5)
//   linear        a straight line from step 0 to `steps`
//   inverse_root  sqrt(warmup / (step + 1)) after the warm-up (Vaswani et al. 2017, equation 3)
//   wsd           1 up to wsd_end.steps before the end, then its shape (Hu et al. 2024;
//                 one_minus_root: Haegele et al. 2024).
// What reaches 0 is scaled to end at final_lr_share. It is the same for any later step.
double learning_rate(const config::Optimizer& config, std::int64_t step, std::int64_t steps);

}  // namespace pf
