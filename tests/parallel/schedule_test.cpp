#include "parallel/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

#include "core/error.h"
#include "tests/parallel/schedules.h"

namespace pf {
namespace {

using Kind = Action::Kind;
using enum ScheduleKind;

template <class F>
std::string message(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string refusal(const Schedule& schedule) {
  return message([&] { check(schedule); });
}

// Letters of the eight kinds of action: F, B, I (input gradient), W; > and < pass activations on,
// ) and ( gradients back. With one chunk its number is left out.
std::string drawn(const Schedule& schedule, int rank, bool with_transfers = false) {
  std::string out;
  for (const Action& a : schedule.ranks[std::size_t(rank)]) {
    if (!is_work(a.kind) && !with_transfers) continue;
    if (!out.empty()) out += ' ';
    out += "FBIW><()"[std::size_t(a.kind)];
    if (schedule.shape.chunks > 1) out += std::to_string(a.chunk) + '.';
    out += std::to_string(a.micro_batch);
  }
  return out;
}

Action* find(Schedule& schedule, int rank, const Action& action) {
  return &*std::ranges::find(schedule.ranks[std::size_t(rank)], action);
}

TEST(Schedule, EveryShapePassesItsCheckAndFillsItsBound) {
  for (const ScheduleShape& shape : many_shapes()) {
    const Schedule schedule = make_schedule(shape);
    EXPECT_EQ(refusal(schedule), "no error") << text(shape);
    for (int rank = 0; rank < shape.stages; ++rank)
      EXPECT_EQ(in_flight(schedule, rank), in_flight_bound(shape, rank)) << text(shape) << rank;
  }
}

TEST(Schedule, ThatRunsFurtherAheadPassesItsCheckAndFillsItsBound) {
  for (const auto kind : {one_f_one_b, zero_bubble_h1})
    for (int p = 1; p <= 4; ++p)
      for (int m = 1; m <= 12; ++m)
        for (const int together : {2, 3, 5}) {
          const Schedule schedule = make_schedule({kind, p, 1, m, together});
          EXPECT_EQ(refusal(schedule), "no error") << p << ' ' << m << ' ' << together;
          for (int rank = 0; rank < p; ++rank)
            EXPECT_EQ(in_flight(schedule, rank), in_flight_bound(schedule.shape, rank));
        }
}

TEST(Schedule, OfTwoStagesAndThreeMicroBatchesIsTheDrawnOne) {
  const Schedule gpipe = make_schedule({ScheduleKind::gpipe, 2, 1, 3});
  EXPECT_EQ(drawn(gpipe, 0, true), "F0 >0 F1 >1 F2 >2 )0 B0 )1 B1 )2 B2");
  EXPECT_EQ(drawn(gpipe, 1, true), "<0 F0 <1 F1 <2 F2 B0 (0 B1 (1 B2 (2");
  // The last stage takes the next activations before it gives gradients back: otherwise both ranks
  // would wait in a send.
  const Schedule alternating = make_schedule({one_f_one_b, 2, 1, 3});
  EXPECT_EQ(drawn(alternating, 0, true), "F0 >0 F1 >1 )0 B0 F2 >2 )1 B1 )2 B2");
  EXPECT_EQ(drawn(alternating, 1, true), "<0 F0 B0 <1 (0 F1 B1 <2 (1 F2 B2 (2");
  const Schedule deferring = make_schedule({zero_bubble_h1, 2, 1, 3});
  EXPECT_EQ(drawn(deferring, 0), "F0 F1 I0 W0 F2 I1 W1 I2 W2");
  EXPECT_EQ(drawn(deferring, 1), "F0 I0 F1 I1 W0 F2 I2 W1 W2");
}

TEST(Schedule, InterleavedGoesThroughAChunkWithAsManyMicroBatchesAsStages) {
  // Figure 4 of Narayanan et al. 2021, with 2 stages.
  const Schedule schedule = make_schedule({interleaved, 2, 2, 4});
  EXPECT_EQ(drawn(schedule, 0),
            "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 F0.3 B1.1 F1.2 B0.0 F1.3 B0.1 B1.2 B1.3 B0.2 B0.3");
  EXPECT_EQ(drawn(schedule, 1),
            "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3");
}

TEST(Schedule, AVTurnsOnTheLastRankAndComesHomeOnTheFirst) {
  const Schedule schedule = make_schedule({zero_bubble_v, 2, 2, 1});
  EXPECT_EQ(drawn(schedule, 0, true), "F0.0 >0.0 <1.0 F1.0 I1.0 (1.0 W1.0 )0.0 I0.0 W0.0");
  EXPECT_EQ(drawn(schedule, 1, true), "<0.0 F0.0 F1.0 >1.0 )1.0 I1.0 I0.0 (0.0 W1.0 W0.0");
}

TEST(Schedule, OfOneRankSendsNothing) {
  EXPECT_EQ(drawn(make_schedule({one_f_one_b, 1, 1, 2}), 0, true), "F0 B0 F1 B1");
  EXPECT_EQ(drawn(make_schedule({zero_bubble_h1, 1, 1, 2}), 0, true), "F0 I0 W0 F1 I1 W1");
  EXPECT_EQ(drawn(make_schedule({interleaved, 1, 2, 1}), 0, true), "F0.0 F1.0 B1.0 B0.0");
  EXPECT_EQ(drawn(make_schedule({zero_bubble_v, 1, 2, 1}), 0, true),
            "F0.0 F1.0 I1.0 I0.0 W1.0 W0.0");
}

// The gradient of a tied embedding starts to travel when the embedding's last weight work is done:
// the head adds to it no later.
TEST(Schedule, WhereARankHasBothEndsTheHeadsWeightsAreDoneFirst) {
  int with_both = 0;
  for (const ScheduleShape& shape : many_shapes()) {
    const int last = virtual_stages(shape) - 1, rank = rank_of(shape, 0);
    if (rank_of(shape, last) != rank) continue;
    ++with_both;
    int last_done = -1;  // chunk
    const Schedule schedule = make_schedule(shape);
    for (const Action& a : schedule.ranks[std::size_t(rank)])
      if (a.kind == Kind::backward || a.kind == Kind::weight_gradient) last_done = a.chunk;
    EXPECT_EQ(last_done, chunk_of(shape, 0)) << text(shape);
  }
  EXPECT_GT(with_both, 100);
}

TEST(Schedule, HoldsWhatThePapersSay) {
  EXPECT_EQ(in_flight(make_schedule({ScheduleKind::gpipe, 4, 1, 12}), 0), 12);
  EXPECT_EQ(in_flight(make_schedule({one_f_one_b, 4, 1, 12}), 0), 4);
  EXPECT_EQ(in_flight(make_schedule({one_f_one_b, 4, 1, 12}), 3), 1);
  // p (1 + (p - 1) / (p v)) of v chunks: 4 x 2 + 3.
  EXPECT_EQ(in_flight(make_schedule({interleaved, 4, 2, 12}), 0), 11);
  EXPECT_EQ(in_flight(make_schedule({interleaved, 8, 3, 24}), 0), 31);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(in_flight(make_schedule({zero_bubble_h1, 4, 1, 12}), rank), 4);
    EXPECT_EQ(in_flight(make_schedule({zero_bubble_v, 4, 2, 12}), rank), 8);
  }
}

TEST(Schedule, VirtualStagesAndPlacesOfChunksAreInverse) {
  for (const ScheduleShape& shape : {ScheduleShape{interleaved, 3, 4, 3}, {zero_bubble_v, 5, 2, 1}})
    for (int stage = 0; stage < virtual_stages(shape); ++stage)
      EXPECT_EQ(virtual_stage(shape, rank_of(shape, stage), chunk_of(shape, stage)), stage);
  EXPECT_EQ(virtual_stage({interleaved, 4, 2, 4}, 1, 1), 5);
  EXPECT_EQ(virtual_stage({zero_bubble_v, 4, 2, 4}, 1, 1), 6);
}

TEST(Schedule, KnowsTheOtherEnd) {
  const ScheduleShape round{interleaved, 3, 2, 3}, v{zero_bubble_v, 3, 2, 3};
  EXPECT_EQ(peer(round, 2, {Kind::send_forward, 0, 0}), 0);
  EXPECT_EQ(peer(round, 0, {Kind::receive_forward, 1, 0}), 2);
  EXPECT_EQ(peer(v, 1, {Kind::send_forward, 1, 0}), 0);
  EXPECT_EQ(peer(v, 1, {Kind::receive_backward, 1, 0}), 0);
  EXPECT_EQ(message([&] {
              peer(v, 0, {Kind::send_forward, 1, 2});
            }),
            "schedule: send_forward 1.2 on rank 0 has no other end");
  EXPECT_EQ(message([&] {
              peer(v, 0, {Kind::forward, 1, 2});
            }),
            "schedule: forward 1.2 has no other end");
}

TEST(Schedule, WordsOfConfigurationsNameItsKinds) {
  for (const auto kind :
       {ScheduleKind::gpipe, one_f_one_b, interleaved, zero_bubble_h1, zero_bubble_v})
    EXPECT_EQ(schedule_kind(name(kind)), kind);
  EXPECT_EQ(schedule_kind("1f1b"), one_f_one_b);
  EXPECT_EQ(message([] { schedule_kind("2f2b"); }),
            "schedule: '2f2b' is not one of gpipe, 1f1b, interleaved, zbh1, zbv");
}

TEST(Schedule, RefusesShapesThatAKindDoesNotHave) {
  const auto refused = [](const ScheduleShape& shape) {
    return message([&] { make_schedule(shape); });
  };
  EXPECT_EQ(refused({interleaved, 4, 2, 6}),
            "schedule: interleaved needs a multiple of the 4 stages as its number of "
            "micro-batches, not 6");
  EXPECT_EQ(refused({zero_bubble_v, 4, 1, 6}),
            "schedule: zbv has 2 chunks on each rank, one on the way down and one on the way up, "
            "not 1");
  EXPECT_EQ(refused({one_f_one_b, 4, 2, 6}),
            "schedule: 1f1b has 1 chunk on each rank, not 2; interleaved and zbv have more");
  EXPECT_EQ(refused({ScheduleKind::gpipe, 0, 1, 6}),
            "schedule: gpipe of 0 stages, 6 micro-batches; all must be 1 or more");
}

// With blocking sends a send and its receive are one event; that each rank's order fits into one of
// all events is what a schedule needs to end.
TEST(Schedule, HasAnOrderOfAllEventsInWhichSendsMeetTheirReceives) {
  for (const ScheduleShape& shape : many_shapes()) {
    const Schedule schedule = make_schedule(shape);
    std::map<std::tuple<bool, int, int>, int> transfers;
    std::vector<std::vector<int>> after;
    std::vector<int> waits;
    const auto event = [&] {
      return after.emplace_back(), waits.push_back(0), int(waits.size()) - 1;
    };
    for (int rank = 0; rank < shape.stages; ++rank) {
      int previous = -1;
      for (const Action& a : schedule.ranks[std::size_t(rank)]) {
        int id = -1;
        if (is_work(a.kind)) {
          id = event();
        } else {
          const bool is_gradient =
              a.kind == Kind::send_backward || a.kind == Kind::receive_backward;
          const int from = virtual_stage(shape, rank, a.chunk) + (is_send(a.kind) ? 0
                                                                  : is_gradient   ? 1
                                                                                  : -1);
          const auto [found, is_new] = transfers.try_emplace({is_gradient, from, a.micro_batch}, 0);
          if (is_new) found->second = event();
          id = found->second;
        }
        if (previous >= 0) after[std::size_t(previous)].push_back(id), ++waits[std::size_t(id)];
        previous = id;
      }
    }
    std::deque<int> ready;
    for (int id = 0; id < int(waits.size()); ++id)
      if (waits[std::size_t(id)] == 0) ready.push_back(id);
    std::size_t done = 0;
    for (; !ready.empty(); ready.pop_front(), ++done)
      for (const int next : after[std::size_t(ready.front())])
        if (--waits[std::size_t(next)] == 0) ready.push_back(next);
    EXPECT_EQ(done, waits.size()) << text(shape);
  }
}

TEST(ScheduleCheck, FindsEveryActionThatIsMissing) {
  for (const ScheduleShape& shape :
       {ScheduleShape{interleaved, 2, 2, 4}, {zero_bubble_v, 3, 2, 4}}) {
    const Schedule whole = make_schedule(shape);
    for (std::size_t rank = 0; rank < whole.ranks.size(); ++rank)
      for (std::size_t i = 0; i < whole.ranks[rank].size(); ++i) {
        Schedule broken = whole;
        broken.ranks[rank].erase(broken.ranks[rank].begin() + std::ptrdiff_t(i));
        const std::string refused = refusal(broken), gone = text(whole.ranks[rank][i]);
        EXPECT_TRUE(refused.ends_with("without " + gone + " before it") ||
                    refused ==
                        "schedule: " + gone + " on rank " + std::to_string(rank) + " is missing")
            << refused;
      }
  }
}

TEST(ScheduleCheck, FindsEveryActionThatIsDoubled) {
  const Schedule whole = make_schedule({zero_bubble_v, 3, 2, 4});
  for (std::size_t rank = 0; rank < whole.ranks.size(); ++rank)
    for (const Action& action : whole.ranks[rank]) {
      Schedule broken = whole;
      broken.ranks[rank].push_back(action);
      EXPECT_EQ(refusal(broken), "schedule: " + text(action) + " on rank " + std::to_string(rank) +
                                     " is there twice");
    }
}

TEST(ScheduleCheck, RefusesWhatComesBeforeWhatItNeeds) {
  const auto swapped = [](const ScheduleShape& shape, int rank, Action a, Action b) {
    Schedule schedule = make_schedule(shape);
    std::swap(*find(schedule, rank, a), *find(schedule, rank, b));
    return refusal(schedule);
  };
  const ScheduleShape alternating{one_f_one_b, 2, 1, 3}, v{zero_bubble_v, 2, 2, 2};
  EXPECT_EQ(swapped(alternating, 1, {Kind::forward, 0, 1}, {Kind::backward, 0, 1}),
            "schedule: backward 0.1 on rank 1 comes without forward 0.1 before it");
  EXPECT_EQ(swapped(alternating, 1, {Kind::forward, 0, 0}, {Kind::receive_forward, 0, 0}),
            "schedule: forward 0.0 on rank 1 comes without receive_forward 0.0 before it");
  EXPECT_EQ(swapped(alternating, 0, {Kind::forward, 0, 0}, {Kind::send_forward, 0, 0}),
            "schedule: send_forward 0.0 on rank 0 comes without forward 0.0 before it");
  EXPECT_EQ(swapped(alternating, 0, {Kind::backward, 0, 0}, {Kind::receive_backward, 0, 0}),
            "schedule: backward 0.0 on rank 0 comes without receive_backward 0.0 before it");
  EXPECT_EQ(swapped(v, 0, {Kind::input_gradient, 0, 1}, {Kind::weight_gradient, 0, 1}),
            "schedule: weight_gradient 0.1 on rank 0 comes without input_gradient 0.1 before it");
  // The bottom of the V hands over within the rank.
  EXPECT_EQ(swapped(v, 1, {Kind::forward, 0, 0}, {Kind::forward, 1, 0}),
            "schedule: forward 1.0 on rank 1 comes without forward 0.0 before it");
  EXPECT_EQ(swapped(v, 1, {Kind::input_gradient, 1, 0}, {Kind::input_gradient, 0, 0}),
            "schedule: input_gradient 0.0 on rank 1 comes without input_gradient 1.0 before it");
}

TEST(ScheduleCheck, RefusesActionsThatTheShapeDoesNotHave) {
  Schedule whole = make_schedule({one_f_one_b, 2, 1, 2});
  const auto with = [&](Action action) {
    Schedule broken = whole;
    broken.ranks[0].push_back(action);
    return refusal(broken);
  };
  EXPECT_EQ(with({Kind::forward, 0, 2}),
            "schedule: forward 0.2 on rank 0: there are 1 chunks and 2 micro-batches");
  EXPECT_EQ(with({Kind::weight_gradient, 0, 0}),
            "schedule: weight_gradient 0.0 on rank 0: 1f1b has backward as a whole");
  EXPECT_EQ(with({Kind::send_backward, 0, 0}),
            "schedule: send_backward 0.0 on rank 0 has no other end");
  whole.shape.kind = zero_bubble_h1;
  EXPECT_EQ(refusal(whole),
            "schedule: backward 0.0 on rank 0: zbh1 parts backward into input_gradient and "
            "weight_gradient");
  whole.ranks.pop_back();
  EXPECT_EQ(refusal(whole), "schedule: zbh1 of 2 stages, 2 micro-batches has 1 ranks");
}

TEST(ScheduleCheck, RefusesReceivesInAnotherOrderThanTheirSends) {
  Schedule schedule = make_schedule({ScheduleKind::gpipe, 2, 1, 3});
  std::vector<Action>& first = schedule.ranks[0];
  std::rotate(first.begin() + 1, first.begin() + 2, first.begin() + 4);  // F0 F1 >1 >0
  EXPECT_EQ(refusal(schedule),
            "schedule: rank 0 sends rank 1 as number 0 the activations of virtual stage 0, "
            "micro-batch 1, which receives the activations of virtual stage 0, micro-batch 0");
}

TEST(ScheduleCheck, RefusesMoreInFlightThanTheKindAllows) {
  Schedule schedule = make_schedule({ScheduleKind::gpipe, 2, 1, 3});
  schedule.shape.kind = one_f_one_b;
  EXPECT_EQ(refusal(schedule),
            "schedule: rank 0 holds 3 micro-batches of a chunk at once; 1f1b allows 2");
  // Weight work that is put off holds its micro-batch.
  Schedule late = make_schedule({zero_bubble_h1, 2, 1, 4});
  std::vector<Action>& last = late.ranks[1];
  last.erase(std::ranges::find(last, Action{Kind::weight_gradient, 0, 0}));
  last.push_back({Kind::weight_gradient, 0, 0});
  EXPECT_EQ(refusal(late),
            "schedule: rank 1 holds 3 micro-batches of a chunk at once; zbh1 allows 2");
}

TEST(ScheduleCheck, RefusesBlockingSendsThatWaitForEachOther) {
  Schedule schedule = make_schedule({one_f_one_b, 2, 1, 3});
  std::swap(*find(schedule, 1, {Kind::receive_forward, 0, 1}),
            *find(schedule, 1, {Kind::send_backward, 0, 0}));
  EXPECT_EQ(refusal(schedule),
            "schedule: with blocking sends these wait for each other: send_forward 0.1 on rank 0, "
            "send_backward 0.0 on rank 1");
}

}  // namespace
}  // namespace pf
