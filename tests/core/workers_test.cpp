#include "core/workers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/tensors.h"

namespace pf {
namespace {

struct Piece {
  std::int64_t begin, end;
  int worker;
  friend bool operator==(const Piece&, const Piece&) = default;
};

// Who does what of a split.
std::vector<Piece> pieces(Workers& workers, std::int64_t size, std::int64_t grain) {
  std::vector<Piece> of(std::size_t(workers.count()), Piece{0, 0, -1});
  workers.split(size, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
    EXPECT_EQ(of[std::size_t(worker)].worker, -1) << "two pieces for one worker";
    of[std::size_t(worker)] = {begin, end, worker};
  });
  std::erase_if(of, [](const Piece& piece) { return piece.worker < 0; });
  return of;
}

TEST(Workers, ASplitCoversEverythingExactlyOnceInOrder) {
  for (int count : {1, 2, 3, 5, 8}) {
    Workers workers(count);
    for (std::int64_t size : {0, 1, 2, 7, 31, 97, 1000, 12345})
      for (std::int64_t grain : {1, 3, 64, 5000}) {
        std::int64_t at = 0;
        for (const Piece& piece : pieces(workers, size, grain)) {
          EXPECT_EQ(piece.begin, at);
          EXPECT_LT(piece.begin, piece.end);
          EXPECT_EQ(piece.begin % grain, 0);
          at = piece.end;
        }
        EXPECT_EQ(at, size) << count << " workers, grain " << grain;
      }
  }
}

TEST(Workers, SharesDifferByAtMostOneGrain) {
  Workers workers(3);
  for (std::int64_t grains : {3, 10, 100, 101}) {
    const auto of = pieces(workers, grains * 8, 8);
    ASSERT_EQ(of.size(), 3u);
    const auto by_size = [](const Piece& a, const Piece& b) {
      return a.end - a.begin < b.end - b.begin;
    };
    const auto [least, most] = std::ranges::minmax_element(of, by_size);
    EXPECT_LE((most->end - most->begin) - (least->end - least->begin), 8);
  }
}

TEST(Workers, TheSamePartIsDoneByTheSameWorkerEachTime) {
  Workers workers(3);
  const auto first = pieces(workers, 1001, 4);
  for (int round = 0; round < 100; ++round) EXPECT_EQ(pieces(workers, 1001, 4), first);
}

TEST(Workers, EachTaskIsDoneOnceByOneOfTheWorkers) {
  for (int count : {1, 2, 5}) {
    Workers workers(count);
    for (std::int64_t tasks : {0, 1, 4, 1000}) {
      std::vector<std::atomic<int>> done(std::size_t(tasks) + 1);
      std::atomic<bool> are_workers{true};
      workers.each(tasks, [&](std::int64_t task, int worker) {
        ++done[std::size_t(task)];
        if (worker < 0 || worker >= count) are_workers = false;
      });
      EXPECT_TRUE(are_workers);
      for (std::int64_t task = 0; task < tasks; ++task)
        ASSERT_EQ(done[std::size_t(task)], 1) << task << " of " << tasks << ", " << count;
      EXPECT_EQ(done.back(), 0);
    }
  }
}

// The first task waits for all others: they are not dealt out before.
TEST(Workers, WhoIsFreeTakesTheNextTask) {
  Workers workers(2);
  std::atomic<int> others{0};
  workers.each(50, [&](std::int64_t task, int) {
    if (task > 0) ++others;
    while (task == 0 && others < 49) std::this_thread::yield();
  });
  EXPECT_EQ(others, 49);
}

TEST(Workers, ARunIsOnceOnEachWorkerAndOnTheSameThread) {
  Workers workers(4);
  std::vector<std::thread::id> first(4);
  workers.run([&](int worker) { first[std::size_t(worker)] = std::this_thread::get_id(); });
  EXPECT_EQ(first[0], std::this_thread::get_id());
  std::vector<int> runs(4);
  for (int round = 0; round < 50; ++round)
    workers.run([&](int worker) {
      ++runs[std::size_t(worker)];
      EXPECT_EQ(std::this_thread::get_id(), first[std::size_t(worker)]);
    });
  EXPECT_EQ(runs, std::vector<int>(4, 50));
}

TEST(Workers, WhatWorkersWroteIsSeenAfterTheRun) {
  Workers workers(3);
  std::vector<std::int64_t> values(3);
  for (int round = 1; round <= 2000; ++round) {
    workers.run([&](int worker) { values[std::size_t(worker)] = round * (worker + 1); });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), std::int64_t{0}), 6 * round);
  }
}

TEST(Workers, ManyRoundsWithMoreWorkersThanProcessorsEnd) {
  const int count = 2 * int(std::max(2u, std::thread::hardware_concurrency())) + 1;
  Workers workers(count);
  std::atomic<std::int64_t> runs{0};
  for (int round = 0; round < 2000; ++round) workers.run([&](int) { ++runs; });
  EXPECT_EQ(runs, 2000 * count);
}

TEST(Workers, SeveralPoolsWorkSideBySide) {
  std::vector<std::thread> ranks;
  std::atomic<std::int64_t> runs{0};
  for (int rank = 0; rank < 3; ++rank)
    ranks.emplace_back([&] {
      Workers workers(2);
      for (int round = 0; round < 1000; ++round) workers.run([&](int) { ++runs; });
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(runs, 6000);
}

TEST(Workers, PinnedWorkersWorkAlsoBeyondTheLastProcessor) {
  std::thread([] {  // a thread of its own: pinning it must not outlive the test
    Workers workers(3, 1);
    std::atomic<int> runs{0};
    for (int round = 0; round < 100; ++round) workers.run([&](int) { ++runs; });
    EXPECT_EQ(runs, 300);
  })
      .join();
}

TEST(Workers, APoolThatNeverRanEnds) {
  for (int round = 0; round < 50; ++round) Workers workers(4);
}

TEST(Workers, NoWorkersAreAnError) {
  expect_error([] { Workers workers(0); }, {"workers: 0 threads"});
  expect_error([] { Workers workers(-2); }, {"workers: -2 threads"});
}

}  // namespace
}  // namespace pf
