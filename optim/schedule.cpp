#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pf {
namespace {

using config::Optimizer;
using config::WarmupStableDecay;

// From 1 at 0 to 0 at 1.
double cosine(double done) {
  return (1 + std::cos(std::numbers::pi * done)) / 2;
}

double end_of_wsd(const WarmupStableDecay& c, std::int64_t step, std::int64_t steps) {
  const double last =
      c.steps() > 0 ? double(c.steps()) : double(std::max<std::int64_t>(1, steps / 10));
  const double done = std::clamp((double(step) - (double(steps) - last)) / last, 0.0, 1.0);
  switch (c.shape()) {
    case WarmupStableDecay::linear:
      return 1 - done;
    case WarmupStableDecay::cosine:
      return cosine(done);
    case WarmupStableDecay::one_minus_root:
      return 1 - std::sqrt(done);
  }
  return 1;
}

}  // namespace

double learning_rate(const Optimizer& c, std::int64_t step, std::int64_t steps) {
  const double warmup = double(c.warmup());
  const double rise = warmup == 0 ? 1 : std::min(1.0, double(step + 1) / warmup);
  const double done = std::min(1.0, double(step) / double(steps));
  double fall = 1;
  switch (c.decay()) {
    case Optimizer::constant:
      return c.lr() * rise;
    case Optimizer::inverse_root:
      return c.lr() * rise * std::min(1.0, std::sqrt(std::max(1.0, warmup) / double(step + 1)));
    case Optimizer::cosine:
      fall = cosine(done);
      break;
    case Optimizer::linear:
      fall = 1 - done;
      break;
    case Optimizer::wsd:
      fall = end_of_wsd(c.wsd_end(), step, steps);
      break;
  }
  return c.lr() * rise * (c.final_lr_share() + (1 - c.final_lr_share()) * fall);
}

}  // namespace pf
