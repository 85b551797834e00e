#include "parallel/communicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

#include "core/error.h"

namespace pf {
namespace {

using Values = std::vector<double>;

ConstBytes bytes_of(const Values& x) {
  return std::as_bytes(std::span(x));
}
Bytes bytes_of(Values& x) {
  return std::as_writable_bytes(std::span(x));
}

std::vector<int> ranks(int count) {
  std::vector<int> out(static_cast<std::size_t>(count));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

// An exchange and its memory: out[i] goes to the group's i-th rank.
struct Parcels {
  std::vector<Values> out, in;
  std::unique_ptr<Pending> pending;

  Parcels(Communicator& communicator, const std::vector<int>& group, const Call& call,
          std::vector<Values> values, const std::vector<std::size_t>& sizes)
      : out(std::move(values)) {
    std::vector<ConstBytes> send;
    std::vector<Bytes> receive;
    for (const Values& x : out) send.push_back(bytes_of(x));
    for (const std::size_t size : sizes) in.emplace_back(size);
    for (Values& x : in) receive.push_back(bytes_of(x));
    pending = communicator.exchange(group, call, std::move(send), std::move(receive));
  }
};

// Everyone gives its rank, and a number of the call, to all in the group.
Parcels tell(Communicator& communicator, const std::vector<int>& group, const Call& call,
             double number = 0) {
  const Values mine{double(communicator.rank()), number};
  return {communicator, group, call, std::vector<Values>(group.size(), mine),
          std::vector<std::size_t>(group.size(), 2)};
}

void expect_told(const Parcels& parcels, const std::vector<int>& group, double number = 0) {
  for (std::size_t i = 0; i < group.size(); ++i)
    EXPECT_EQ(parcels.in[i], (Values{double(group[i]), number}));
}

Call call_of(const char* kind, const Axes& set = axes::dp) {
  return {kind, set, DType::f64, {4, 2}, false, "x"};
}

// What run_thread_ranks() throws.
std::string failure(int count, const std::function<void(Communicator&)>& body) {
  try {
    run_thread_ranks(count, body);
  } catch (const Error& error) {
    return error.what();
  }
  return "no failure";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ThreadCommunicator, PiecesOfAnySizeGoWhereTheyAreSent) {
  for (int count : {1, 2, 3, 4, 7}) {
    run_thread_ranks(count, [&](Communicator& communicator) {
      const auto n = std::size_t(count), self = std::size_t(communicator.rank());
      const auto size = [](std::size_t from, std::size_t to) { return (3 * from + 5 * to) % 4; };
      std::vector<Values> out;
      std::vector<std::size_t> sizes;
      for (std::size_t i = 0; i < n; ++i) {
        out.emplace_back(size(self, i), double(10 * self + i));
        sizes.push_back(size(i, self));
      }
      Parcels parcels(communicator, ranks(count), call_of("all_to_all"), out, sizes);
      parcels.pending->wait();
      for (std::size_t i = 0; i < n; ++i)
        EXPECT_EQ(parcels.in[i], Values(size(i, self), double(10 * i + self)));
    });
  }
}

TEST(ThreadCommunicator, ASenderMayOverwriteWhatItSentOnceItIsDone) {
  run_thread_ranks(3, [](Communicator& communicator) {
    for (int round = 0; round < 200; ++round) {
      Parcels parcels = tell(communicator, ranks(3), call_of("all_gather"), round);
      while (round % 2 == 0 && !parcels.pending->poll()) std::this_thread::yield();
      parcels.pending->wait();
      for (Values& x : parcels.out) x.assign(2, -1);
      expect_told(parcels, ranks(3), round);
    }
  });
}

TEST(ThreadCommunicator, CallsInFlightEndInAnyOrder) {
  run_thread_ranks(4, [](Communicator& communicator) {
    const int self = communicator.rank();
    const std::vector<int> pair{self / 2 * 2, self / 2 * 2 + 1};
    std::vector<Parcels> flight;
    for (int i = 0; i < 6; ++i)
      flight.push_back(tell(communicator, i % 2 ? pair : ranks(4), call_of("all_gather"), i));
    // Each rank waits for another one first: who waits must serve the others meanwhile.
    for (int i = 0; i < 6; ++i) {
      const int at = (self + i * (self % 2 ? 5 : 1)) % 6;
      flight[std::size_t(at)].pending->wait();
      expect_told(flight[std::size_t(at)], at % 2 ? pair : ranks(4), at);
    }
  });
}

TEST(ThreadCommunicator, AGroupMayListItsRanksInAnyOrder) {
  run_thread_ranks(3, [](Communicator& communicator) {
    const std::vector<int> group{2, 0, 1};
    Parcels parcels = tell(communicator, group, call_of("all_gather"));
    parcels.pending->wait();
    expect_told(parcels, group);
  });
}

TEST(ThreadCommunicator, SendsMeetReceivesInOrder) {
  run_thread_ranks(2, [](Communicator& communicator) {
    const int self = communicator.rank(), other = 1 - self;
    std::vector<Values> out, in(3, Values(1));
    std::vector<std::unique_ptr<Pending>> flight;
    for (int i = 0; i < 3; ++i) out.push_back({10.0 * self + i});
    for (std::size_t i = 0; i < 3; ++i) {
      flight.push_back(communicator.send(other, call_of("activation"), bytes_of(out[i])));
      flight.push_back(communicator.receive(other, call_of("activation"), bytes_of(in[i])));
    }
    for (auto& pending : flight) pending->wait();
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(in[i], Values{10.0 * other + double(i)});
  });
}

// Two ranks that make two different calls: both are named, on both ranks.
void expect_named(const Call& a, const Call& b) {
  std::atomic<int> errors{0};
  const std::string found = failure(2, [&](Communicator& communicator) {
    try {
      tell(communicator, ranks(2), communicator.rank() ? b : a).pending->wait();
    } catch (const Error& error) {
      errors += has(error.what(), text(a)) && has(error.what(), text(b));
      throw;
    }
  });
  EXPECT_TRUE(has(found, "rank 0 makes " + text(a))) << found;
  EXPECT_TRUE(has(found, "rank 1 makes " + text(b))) << found;
  EXPECT_EQ(errors, 2);
}

TEST(ThreadCommunicator, DifferentCallsAreAnErrorThatNamesBoth) {
  const Call call{"all_reduce", axes::dp, DType::f64, {4, 2}, false, "loss"};
  Call other = call;
  other.kind = "all_gather";
  expect_named(call, other);
  other = call;
  other.set = axes::cp * axes::dp;
  expect_named(call, other);
  other = call;
  other.type = DType::f32;
  expect_named(call, other);
  other = call;
  other.shape = {2, 4};
  expect_named(call, other);
  other = call;
  other.is_uneven = true;
  expect_named(call, other);
}

TEST(ThreadCommunicator, ADifferentOrderIsAnErrorThatNamesBoth) {
  const std::string found = failure(2, [](Communicator& communicator) {
    const char* kinds[] = {"all_reduce", "all_gather"};
    auto a = tell(communicator, ranks(2), call_of(kinds[communicator.rank()]));
    auto b = tell(communicator, ranks(2), call_of(kinds[1 - communicator.rank()]));
    b.pending->wait();
    a.pending->wait();
  });
  EXPECT_TRUE(has(found, "makes all_reduce on dp of x: f64 [4, 2]")) << found;
  EXPECT_TRUE(has(found, "makes all_gather on dp of x: f64 [4, 2]")) << found;
}

TEST(ThreadCommunicator, UnevenCallsMayDifferInShape) {
  run_thread_ranks(2, [](Communicator& communicator) {
    Call call = call_of("all_gather");
    call.is_uneven = true;
    call.shape = {communicator.rank(), 2};
    Parcels parcels = tell(communicator, ranks(2), call);
    parcels.pending->wait();
    expect_told(parcels, ranks(2));
  });
}

TEST(ThreadCommunicator, PiecesWhoseSizesDisagreeAreAnErrorThatNamesBoth) {
  const std::string found = failure(3, [](Communicator& communicator) {
    std::vector<std::size_t> sizes(3, 1);
    if (communicator.rank() == 0) sizes[2] = 4;
    Parcels(communicator, ranks(3), call_of("all_to_all"), std::vector<Values>(3, Values(1)), sizes)
        .pending->wait();
  });
  EXPECT_TRUE(has(found, "rank 2 sends 8 bytes to rank 0")) << found;
  EXPECT_TRUE(has(found, "rank 0 wants 32")) << found;
}

TEST(ThreadCommunicator, ARankThatThrowsEndsAllAndItsMessageComesFirst) {
  std::atomic<int> woken{0};
  const std::string found = failure(4, [&](Communicator& communicator) {
    Parcels before = tell(communicator, ranks(4), call_of("all_gather"));
    before.pending->wait();
    if (communicator.rank() == 2) throw std::runtime_error("out of luck");
    try {
      tell(communicator, ranks(4), call_of("all_reduce")).pending->wait();
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "rank 2 failed: out of luck");
      ++woken;
      throw;
    }
  });
  EXPECT_EQ(found, "rank 2: out of luck");
  EXPECT_EQ(woken, 3);
}

TEST(ThreadCommunicator, ARankThatThrowsWithCallsInFlightIsWaitedForByNobody) {
  for (int round = 0; round < 50; ++round) {
    const std::string found = failure(4, [&](Communicator& communicator) {
      const std::size_t size = 1 << 12;
      std::vector<Parcels> flight;
      for (int i = 0; i < 3; ++i)
        flight.emplace_back(communicator, ranks(4), call_of("all_gather"),
                            std::vector<Values>(4, Values(size, 1)),
                            std::vector<std::size_t>(4, size));
      if (communicator.rank() == 1) {
        if (round % 2 == 1) flight[0].pending->wait();
        throw Error("first");
      }
      for (Parcels& parcels : flight) parcels.pending->wait();
    });
    EXPECT_EQ(found, "rank 1: first");
  }
}

TEST(ThreadCommunicator, AbortEndsAllRanks) {
  const std::string found = failure(3, [](Communicator& communicator) {
    if (communicator.rank() == 1) communicator.abort("interrupted");
    tell(communicator, ranks(3), call_of("all_gather")).pending->wait();
  });
  EXPECT_EQ(found, "rank 1: interrupted");
}

TEST(ThreadCommunicator, WaitingForARankThatHasEndedIsAnError) {
  for (const bool is_late : {false, true}) {
    std::atomic<bool> has_ended{false};
    const std::string found = failure(2, [&](Communicator& communicator) {
      tell(communicator, ranks(2), call_of("all_gather")).pending->wait();
      if (communicator.rank() == 1) {
        has_ended = true;
        return;
      }
      while (is_late && !has_ended) std::this_thread::yield();
      if (is_late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      tell(communicator, ranks(2), call_of("all_reduce")).pending->wait();
    });
    EXPECT_EQ(found, "rank 1 has ended; rank 0 waits in all_reduce on dp of x: f64 [4, 2]");
  }
}

TEST(ThreadCommunicator, AGroupMadeAfterOneOfItsRanksHasEndedIsAnError) {
  const std::string found = failure(3, [](Communicator& communicator) {
    if (communicator.rank() == 1) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    tell(communicator, ranks(3), call_of("all_reduce")).pending->wait();
  });
  EXPECT_TRUE(has(found, "rank 1 has ended; rank ")) << found;
}

TEST(ThreadCommunicator, RanksThatWaitForEachOtherAreAnError) {
  const std::string found = failure(4, [](Communicator& communicator) {
    // Neighbours in a ring, each with the one after it first: nobody's partner comes.
    const int self = communicator.rank(), next = (self + 1) % 4;
    std::vector<int> pair{std::min(self, next), std::max(self, next)};
    tell(communicator, pair, call_of("all_reduce", axes::cp)).pending->wait();
  });
  EXPECT_TRUE(has(found, "all ranks wait or have ended: rank 0 waits in all_reduce on cp"))
      << found;
  EXPECT_TRUE(has(found, "rank 3 waits in all_reduce on cp")) << found;
}

TEST(ThreadCommunicator, AReceiveThatNobodySendsIsAnError) {
  const std::string found = failure(2, [](Communicator& communicator) {
    Values x(1);
    communicator.receive(1 - communicator.rank(), call_of("activation"), bytes_of(x))->wait();
  });
  EXPECT_TRUE(has(found, "rank 0 waits in activation on dp of x: f64 [4, 2] from rank 1")) << found;
}

TEST(ThreadCommunicator, ACallThatIsDroppedIsAnError) {
  const std::string found = failure(2, [](Communicator& communicator) {
    Parcels parcels = tell(communicator, ranks(2), call_of("all_gather"));
    if (communicator.rank() == 0) parcels.pending.reset();
    if (communicator.rank() == 1) parcels.pending->wait();
  });
  EXPECT_EQ(found, "rank 0: all_gather on dp of x: f64 [4, 2] was dropped before it had ended");
}

TEST(ThreadCommunicator, ALostExceptionIsNoHang) {
  const std::string found = failure(2, [](Communicator& communicator) {
    try {
      Parcels parcels = tell(communicator, ranks(2), call_of("all_gather"));
      if (communicator.rank() == 0) throw std::runtime_error("lost");
      parcels.pending->wait();
    } catch (const std::runtime_error&) {
      if (communicator.rank() == 1) throw;
    }
  });
  EXPECT_TRUE(has(found, "all ranks wait or have ended: rank 1 waits in all_gather")) << found;
}

TEST(ThreadCommunicator, AGroupWithoutItsCallerIsAnError) {
  const std::string found = failure(2, [](Communicator& communicator) {
    if (communicator.rank() == 1) tell(communicator, {0}, call_of("all_gather"));
  });
  EXPECT_TRUE(has(found, "rank 1: ")) << found;
}

// Sixteen ranks, random groups of them, several calls in flight, ended in random order.
TEST(ThreadCommunicator, RandomCallsOfSixteenRanksAllArrive) {
  constexpr int count = 16, calls = 300;
  struct Plan {
    std::vector<int> group;
  };
  std::mt19937 random(7);
  std::vector<Plan> plans(calls);
  for (Plan& plan : plans) {
    plan.group = ranks(count);
    std::shuffle(plan.group.begin(), plan.group.end(), random);
    plan.group.resize(1 + random() % count);
    std::sort(plan.group.begin(), plan.group.end());
    if (random() % 3 == 0) plan.group = ranks(count);
  }
  run_thread_ranks(count, [&](Communicator& communicator) {
    std::mt19937 own(static_cast<unsigned>(communicator.rank()));
    std::vector<std::pair<int, Parcels>> flight;
    const auto end_one = [&] {
      const std::size_t at = own() % flight.size();
      auto& [number, parcels] = flight[at];
      parcels.pending->wait();
      expect_told(parcels, plans[std::size_t(number)].group, number);
      flight.erase(flight.begin() + std::ptrdiff_t(at));
    };
    for (int i = 0; i < calls; ++i) {
      const std::vector<int>& group = plans[std::size_t(i)].group;
      if (std::find(group.begin(), group.end(), communicator.rank()) == group.end()) continue;
      flight.emplace_back(i, tell(communicator, group, call_of("all_gather"), i));
      if (flight.size() > 1 + own() % 5) end_one();
    }
    while (!flight.empty()) end_one();
  });
}

TEST(ThreadCommunicator, HundredsOfRanksShareTwoCores) {
  constexpr int count = 256;
  run_thread_ranks(count, [&](Communicator& communicator) {
    for (int round = 0; round < 3; ++round) {
      Parcels parcels = tell(communicator, ranks(count), call_of("all_gather"), round);
      parcels.pending->wait();
      expect_told(parcels, ranks(count), round);
    }
  });
}

TEST(ThreadCommunicator, TheWatchdogNamesWhoIsMissingAndWhatWasCalledBefore) {
  std::atomic<int> reports{0};
  CommunicatorOptions options;
  options.watchdog = 2;
  options.report = [&](int rank, const std::string& journal) {
    EXPECT_NE(rank, 1);
    EXPECT_EQ(journal,
              "  #0 all_gather on dp of x: f64 [4, 2]\n"
              "  #1 all_reduce on dp of x: f64 [4, 2]; step 4, micro-batch 2, layers.1; waits\n");
    ++reports;
  };
  std::atomic<bool> has_failed{false};
  std::string found = "no failure";
  try {
    run_thread_ranks(
        3,
        [&](Communicator& communicator) {
          tell(communicator, ranks(3), call_of("all_gather")).pending->wait();
          while (communicator.rank() == 1 && !has_failed)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          communicator.enter({3, 2, "layers.1"});
          try {
            tell(communicator, ranks(3), call_of("all_reduce")).pending->wait();
          } catch (const Error&) {
            has_failed = true;
            throw;
          }
        },
        options);
  } catch (const Error& error) {
    found = error.what();
  }
  EXPECT_TRUE(has(found,
                  "waits in all_reduce on dp of x: f64 [4, 2] at step 4, micro-batch 2, "
                  "layers.1 for over 2 s; missing: rank 1"))
      << found;
  EXPECT_EQ(reports, 2);
}

TEST(Journal, KeepsTheLast64Calls) {
  Journal journal;
  for (int i = 0; i < 70; ++i) journal.end(journal.add(call_of("all_gather"), 0, {}));
  const std::string text = journal.text();
  EXPECT_EQ(std::ranges::count(text, '\n'), 64);
  EXPECT_EQ(text.find("  #6 all_gather on dp of x: f64 [4, 2]\n"), 0u) << text;
}

TEST(FakeCommunicator, CountsWhatTheThreadsSend) {
  run_thread_ranks(3, [](Communicator& communicator) {
    FakeCommunicator fake(communicator.rank(), 3);
    for (Communicator* each : {&communicator, static_cast<Communicator*>(&fake)}) {
      for (int i = 0; i < 2; ++i) tell(*each, ranks(3), call_of("all_gather")).pending->wait();
      tell(*each, ranks(3), call_of("all_gather", axes::cp)).pending->wait();
      Values x(5), y(5);
      auto sending = each->send((each->rank() + 1) % 3, call_of("activation"), bytes_of(x));
      each->receive((each->rank() + 2) % 3, call_of("activation"), bytes_of(y))->wait();
      sending->wait();
    }
    EXPECT_EQ(fake.traffic(), communicator.traffic());
    const std::vector<Traffic> want{
        {"all_gather", "dp", 2, 64}, {"all_gather", "cp", 1, 32}, {"activation", "dp", 2, 40}};
    EXPECT_EQ(fake.traffic(), want);
  });
}

TEST(FakeCommunicator, AfterAnAbortCallsAreErrors) {
  FakeCommunicator fake(0, 2);
  fake.abort("enough");
  EXPECT_THROW(tell(fake, ranks(2), call_of("all_gather")), Error);
}

}  // namespace
}  // namespace pf
