#include "launch/ramp.h"

#include <gtest/gtest.h>

#include "tests/launch/config_text.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

config::Train ramp(std::int64_t start, std::int64_t by, std::int64_t every, std::int64_t whole) {
  config::Train train;
  train.set_global_batch(whole);
  train.mutable_ramp()->set_start(start);
  train.mutable_ramp()->set_by(by);
  train.mutable_ramp()->set_every(every);
  return train;
}

TEST(Ramp, StepsGrowAndSamplesFollowEachOther) {
  for (const config::Train& train :
       {ramp(2, 2, 3, 8), ramp(2, 4, 1, 8), ramp(6, 4, 5, 8), ramp(8, 2, 2, 8)}) {
    std::int64_t next = 0, size = train.ramp().start();
    for (std::int64_t step = 0; step < 40; ++step) {
      if (step > 0 && step % train.ramp().every() == 0)
        size = std::min(train.global_batch(), size + train.ramp().by());
      const StepBatch batch = batch_of(train, step);
      EXPECT_EQ(batch.first, next) << step;
      EXPECT_EQ(batch.size, size) << step;
      next += size;
    }
  }
}

TEST(Ramp, WithoutOneAllStepsAreWhole) {
  config::Train train;
  train.set_global_batch(5);
  EXPECT_EQ(batch_of(train, 7).first, 35);
  EXPECT_EQ(batch_of(train, 7).size, 5);
}

TEST(Ramp, SizesAreSharedByTheReplicas) {
  EXPECT_EQ(told({"parallel.ranks=2", "train.ramp={start: 6, by: 4, every: 1}"}),
            "train.ramp.start: found 6, wanted a multiple of train.micro_batch x dp = 2 x 2 = 4; "
            "nearest: 4 or 8");
  EXPECT_EQ(told({"train.ramp={start: 2, by: 3, every: 1}"}).substr(0, 40),
            "train.ramp.by: found 3, wanted a multipl");
  EXPECT_EQ(told({"train.ramp={start: 10, by: 2, every: 1}"}),
            "train.ramp.start: found 10, wanted at most train.global_batch=8");
  EXPECT_EQ(told({"train.ramp={start: 2}"}).substr(0, 30), "train.ramp.by: is missing; wan");
  EXPECT_EQ(told({with_moe, "model.moe.balance={kind: global, group: 2}",
                  "train.ramp={start: 2, by: 4, every: 1}"}),
            "train.ramp.start: found 2, wanted a multiple of model.moe.balance.group x "
            "train.micro_batch = 2 x 2 = 4; nearest: 4");
}

TEST(Ramp, TheProgramCountsItsTokens) {
  TemporaryFolder here;
  write_small_run(here);
  const Outcome run =
      in_shell(here, "$p train run.yaml train.steps=4 'train.ramp={start: 2, by: 2, every: 1}'");
  ASSERT_EQ(run.code, 0) << run.err;
  const std::string metrics = here.read("runs/run/metrics.jsonl");
  for (const char* tokens :
       {"\"tokens\":64,", "\"tokens\":192,", "\"tokens\":384,", "\"tokens\":640,"})
    EXPECT_TRUE(contains(metrics, tokens)) << tokens << " in " << metrics;
}

}  // namespace
}  // namespace pf
