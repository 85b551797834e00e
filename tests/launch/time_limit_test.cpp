#include "launch/time_limit.h"

#include <gtest/gtest.h>

namespace pf {
namespace {

TEST(TimeLimit, WithoutOneARunNeverEnds) {
  EXPECT_FALSE(must_end({.since_start = 1e9, .slowest_step = 1e9, .last_save = 1e9}, 0));
}

TEST(TimeLimit, LeavesTimeForOneMoreStepAndASaveThatTakeAQuarterLonger) {
  EXPECT_FALSE(must_end({.since_start = 900, .slowest_step = 20, .last_save = 60}, 1000));
  EXPECT_TRUE(must_end({.since_start = 901, .slowest_step = 20, .last_save = 60}, 1000));
  EXPECT_TRUE(must_end({.since_start = 900, .slowest_step = 21, .last_save = 60}, 1000));
  EXPECT_TRUE(must_end({.since_start = 900, .slowest_step = 20, .last_save = 61}, 1000));
  EXPECT_TRUE(must_end({.since_start = 2000, .slowest_step = 1, .last_save = 1}, 1000));
}

TEST(TimeLimit, TakesTheFirstSaveForATwentiethOfItAndAMinuteAtMost) {
  EXPECT_FALSE(must_end({.since_start = 94, .slowest_step = 0}, 100));
  EXPECT_TRUE(must_end({.since_start = 96, .slowest_step = 0}, 100));
  EXPECT_FALSE(must_end({.since_start = 86339, .slowest_step = 0}, 86400));
  EXPECT_TRUE(must_end({.since_start = 86341, .slowest_step = 0}, 86400));
}

}  // namespace
}  // namespace pf
