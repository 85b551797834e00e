#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pf {

double learning_rate(const config::Optimizer& c, std::int64_t step, std::int64_t steps) {
  const double rise = c.warmup() == 0 ? 1 : std::min(1.0, double(step + 1) / double(c.warmup()));
  if (c.decay() == config::Optimizer::constant) return c.lr() * rise;
  const double done = std::min(1.0, double(step) / double(steps));
  const double fall = (1 + std::cos(std::numbers::pi * done)) / 2;
  return c.lr() * rise * (c.final_lr_share() + (1 - c.final_lr_share()) * fall);
}

}  // namespace pf
