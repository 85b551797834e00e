#include "optim/schedule.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace pf
