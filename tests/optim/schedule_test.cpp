#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pf {
namespace {

config::Optimizer with(std::int64_t warmup, config::Optimizer::Decay decay) {
  config::Optimizer config;
  config.set_lr(8);
  config.set_warmup(warmup);
  config.set_decay(decay);
  config.set_final_lr_share(0.25);
  return config;
}

TEST(Schedule, RisesLinearlyAndThenStays) {
  const config::Optimizer config = with(4, config::Optimizer::constant);
  const double want[] = {2, 4, 6, 8, 8, 8};
  for (std::int64_t step = 0; step < 6; ++step)
    EXPECT_EQ(learning_rate(config, step, 6), want[step]) << step;
}

TEST(Schedule, WithoutWarmUpTheFirstStepHasAllOfIt) {
  EXPECT_EQ(learning_rate(with(0, config::Optimizer::constant), 0, 6), 8);
  EXPECT_EQ(learning_rate(with(0, config::Optimizer::cosine), 0, 6), 8);
}

TEST(Schedule, FallsAsAHalfCosine) {
  const config::Optimizer config = with(0, config::Optimizer::cosine);
  EXPECT_NEAR(learning_rate(config, 50, 100), 8 * (1 + 0.25) / 2, 1e-14);
  EXPECT_NEAR(learning_rate(config, 100, 100), 8 * 0.25, 1e-14);
  for (std::int64_t step = 1; step <= 100; ++step)
    EXPECT_LT(learning_rate(config, step, 100), learning_rate(config, step - 1, 100)) << step;
}

TEST(Schedule, StaysAtItsEnd) {
  const config::Optimizer config = with(0, config::Optimizer::cosine);
  EXPECT_NEAR(learning_rate(config, 1000, 100), 8 * 0.25, 1e-14);
}

TEST(Schedule, TheRiseMultipliesTheFall) {
  const config::Optimizer both = with(10, config::Optimizer::cosine);
  const config::Optimizer fall = with(0, config::Optimizer::cosine);
  EXPECT_NEAR(learning_rate(both, 4, 100), learning_rate(fall, 4, 100) / 2, 1e-14);
  EXPECT_EQ(learning_rate(both, 9, 100), learning_rate(fall, 9, 100));
}

TEST(Schedule, AWarmUpLongerThanTheRunIsCutShort) {
  const config::Optimizer config = with(100, config::Optimizer::constant);
  EXPECT_NEAR(learning_rate(config, 9, 10), 0.8, 1e-14);
}

TEST(Schedule, FallsAsALine) {
  const config::Optimizer config = with(0, config::Optimizer::linear);
  for (std::int64_t step = 0; step <= 100; step += 25)
    EXPECT_NEAR(learning_rate(config, step, 100), 8 - 6 * double(step) / 100, 1e-14) << step;
}

// d^-0.5 min(n^-0.5, n w^-1.5) of Vaswani et al. 2017, equation 3, over its peak.
TEST(Schedule, FallsAsTheInverseRootFromTheWarmUpOn) {
  const config::Optimizer config = with(16, config::Optimizer::inverse_root);
  for (const double n : {1, 8, 16, 17, 64, 1600})
    EXPECT_NEAR(learning_rate(config, std::int64_t(n) - 1, 2000),
                8 * std::min(1 / std::sqrt(n), n * std::pow(16, -1.5)) * std::sqrt(16), 1e-13)
        << n;
  EXPECT_NEAR(learning_rate(with(0, config::Optimizer::inverse_root), 3, 10), 4, 1e-14);
}

TEST(Schedule, WarmsUpStaysAndFallsInItsShapes) {
  using Shape = config::WarmupStableDecay;
  const auto rate = [](Shape::Shape shape, std::int64_t last, std::int64_t step) {
    config::Optimizer config = with(4, config::Optimizer::wsd);
    config.mutable_wsd_end()->set_shape(shape);
    config.mutable_wsd_end()->set_steps(last);
    return learning_rate(config, step, 100);
  };
  const double half[] = {0.5, (1 + std::cos(std::numbers::pi * 0.25)) / 2, 1 - std::sqrt(0.25)};
  const double at[] = {0.5, 0.25, 0.25};  // shares of the fall
  for (const Shape::Shape shape : {Shape::linear, Shape::cosine, Shape::one_minus_root}) {
    SCOPED_TRACE(Shape::Shape_Name(shape));
    EXPECT_EQ(rate(shape, 40, 1), 4);
    for (const std::int64_t step : {3, 30, 60}) EXPECT_EQ(rate(shape, 40, step), 8);
    EXPECT_NEAR(rate(shape, 40, 60 + std::int64_t(40 * at[shape])), 2 + 6 * half[shape], 1e-14);
    for (const std::int64_t step : {100, 1000}) EXPECT_NEAR(rate(shape, 40, step), 2, 1e-14);
    EXPECT_EQ(rate(shape, 0, 90), 8);  // a tenth of the steps
    EXPECT_LT(rate(shape, 0, 91), 8);
  }
}

}  // namespace
}  // namespace pf
