#include "parallel/timeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "tests/parallel/schedules.h"

namespace pf {
namespace {

using enum ScheduleKind;

struct Times {
  int f, b, w;
};

// Every rank's bubble against the formula, over whole times of a chunk of up to 4 units.
void expect_formula(ScheduleKind kind, const std::function<bool(const Times&)>& holds) {
  int compared = 0;
  for (const ScheduleShape& shape : many_shapes()) {
    if (shape.kind != kind) continue;
    const Schedule schedule = make_schedule(shape);
    for (int f = 1; f <= 4; ++f)
      for (int b = 1; b <= 4; ++b)
        for (int w = 0; w <= 4; ++w) {
          if (!holds({f, b, w})) continue;
          const int v = shape.chunks;
          const double want = bubble_formula(shape, f * v, b * v, w * v);
          const Timeline t = timeline(schedule, even_times(shape, f * v, b * v, w * v));
          EXPECT_EQ(t.makespan, shape.micro_batches * v * (f + b + w) + want) << text(shape);
          for (const double bubble : t.bubbles) EXPECT_EQ(bubble, want) << text(shape);
          ++compared;
        }
  }
  EXPECT_GT(compared, 1000);
}

TEST(Timeline, OfGpipeAnd1f1bIsTheFormulaForAllTimes) {
  expect_formula(ScheduleKind::gpipe, [](const Times&) { return true; });
  expect_formula(one_f_one_b, [](const Times&) { return true; });
}

TEST(Timeline, OfInterleavedIsTheFormulaWhereBackwardTakesOneToThreeForwards) {
  expect_formula(interleaved,
                 [](const Times& t) { return t.f <= t.b + t.w && t.b + t.w <= 3 * t.f; });
}

TEST(Timeline, OfZeroBubbleH1IsTheFormulaWhereWeightsTakeLeast) {
  expect_formula(zero_bubble_h1, [](const Times& t) { return t.w <= t.f && t.w <= t.b; });
}

TEST(Timeline, FormulasAreThoseOfThePapers) {
  EXPECT_EQ(bubble_formula({one_f_one_b, 4, 1, 8}, 3, 4, 2), 3 * 9);
  EXPECT_EQ(bubble_formula({interleaved, 4, 2, 8}, 6, 8, 4), 3 * 9);
  EXPECT_EQ(bubble_formula({zero_bubble_h1, 4, 1, 8}, 3, 4, 2), 3 * (3 + 4 - 2));
}

// In units of a chunk's work no V can be shorter than 6m + p - 1: the last rank starts p - 1 late
// and has 6m to do. ZB-H1 takes 6m + 2(p - 1), and holds as much. With p + 1 micro-batches the last
// one waits for the first to be done.
TEST(Timeline, OfAVIsNoLongerThanThatOfZeroBubbleH1ForEqualTimes) {
  for (const ScheduleShape& shape : many_shapes()) {
    const int p = shape.stages, m = shape.micro_batches, all = 6 * m;
    if (shape.kind != zero_bubble_v || m < p || m == p + 1) continue;
    const double makespan = timeline(make_schedule(shape), even_times(shape, 2, 2, 2)).makespan;
    EXPECT_GE(makespan, all + p - 1) << text(shape);
    EXPECT_LE(makespan, all + 2 * (p - 1)) << text(shape);
  }
}

TEST(Timeline, OfAVIsShorterThanThatOfZeroBubbleH1ForTimesOfTransformers) {
  for (const int p : {2, 4, 8})
    for (const int m : {2 * p, 4 * p, 8 * p})
      for (const Times& t :
           {Times{10, 10, 10}, {10, 12, 8}, {10, 13, 10}, {10, 14, 8}, {10, 16, 7}}) {
        const ScheduleShape v{zero_bubble_v, p, 2, m}, h1{zero_bubble_h1, p, 1, m};
        const double bubble = timeline(make_schedule(v), even_times(v, t.f, t.b, t.w)).bubbles[0];
        EXPECT_LT(bubble, 0.9 * bubble_formula(h1, t.f, t.b, t.w)) << p << ' ' << m << ' ' << t.b;
      }
}

TEST(Timeline, SaysWhenEveryActionBeginsAndEnds) {
  // F 1, B 2: rank 0  F0 F1 . . B0 B0 . B1 B1     rank 1  . F0 B0 B0 F1 B1 B1
  const Timeline t = timeline(make_schedule({one_f_one_b, 2, 1, 2}), {{1}, {1}, {1}, 0});
  std::vector<std::pair<double, double>> first, last;
  for (const auto& span : t.ranks[0]) first.push_back({span.begin, span.end});
  for (const auto& span : t.ranks[1]) last.push_back({span.begin, span.end});
  // forward 0, send, forward 1, send, receive, backward 0, receive, backward 1
  EXPECT_EQ(first,
            (decltype(first){{0, 1}, {1, 1}, {1, 2}, {2, 2}, {2, 2}, {4, 6}, {6, 6}, {7, 9}}));
  // receive, forward 0, backward 0, receive, send, forward 1, backward 1, send
  EXPECT_EQ(last, (decltype(last){{0, 0}, {1, 2}, {2, 4}, {4, 4}, {4, 4}, {4, 5}, {5, 7}, {7, 7}}));
  EXPECT_EQ(t.makespan, 9);
  EXPECT_EQ(t.bubbles, (std::vector<double>{3, 3}));
}

// Rank 1 receives activations 2 before it sends gradient 1, but does not wait for them there: its
// backward 1 ends at 7.5, and rank 0 begins its own at 8.
TEST(Timeline, ReceivesDoNotHoldUpTheSendsBehindThem) {
  const Schedule schedule = make_schedule({one_f_one_b, 2, 1, 3});
  const Timeline t = timeline(schedule, {{1}, {1}, {1}, 0.5});
  const Action backward{Action::Kind::backward, 0, 1};
  const auto at = std::ranges::find(schedule.ranks[0], backward) - schedule.ranks[0].begin();
  EXPECT_EQ(t.ranks[0][std::size_t(at)].begin, 8);
  EXPECT_EQ(t.makespan, 14);
}

TEST(Timeline, UnevenStagesWaitForTheSlowest) {
  // F 1 and 3, B 2 and 6: rank 1 works from 1 to 37 without a gap, then rank 0 has a B left.
  const Timeline t = timeline(make_schedule({one_f_one_b, 2, 1, 4}), {{1, 3}, {1, 3}, {1, 3}, 0});
  EXPECT_EQ(t.makespan, 1 + 4 * 9 + 2);
  EXPECT_EQ(t.bubbles, (std::vector<double>{39 - 12, 39 - 36}));
}

TEST(Timeline, RefusesTimesOfOtherStages) {
  try {
    timeline(make_schedule({zero_bubble_v, 2, 2, 1}), {{1, 1}, {1}, {1}, 0});
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "timeline: 2 times for 4 virtual stages");
  }
}

TEST(Timeline, RefusesAScheduleThatNeverEnds) {
  Schedule schedule = make_schedule({one_f_one_b, 2, 1, 1});
  schedule.ranks[0].erase(schedule.ranks[0].begin() + 1);
  try {
    timeline(schedule, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "timeline: rank 0 waits for ever before backward 0.0");
  }
}

}  // namespace
}  // namespace pf
