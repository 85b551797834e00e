// Ranks that are threads of one process. A call's pieces are copied once, from the sender's buffer
// into the receiver's and by the receiver's thread, when all ranks of the group have made the call.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "core/error.h"
#include "parallel/communicator.h"

namespace pf {
namespace {

using Clock = std::chrono::steady_clock;

class ThreadPending;

// The n-th call of a group. The group's mutex guards what is not atomic; `posts` stay as they are
// while there are readers.
struct Round {
  explicit Round(std::size_t ranks) : posts(ranks) {}

  std::vector<ThreadPending*> posts;  // by place in the group; null: not here yet, or withdrawn
  std::atomic<int> arrived{0}, copied{0}, readers{0};
  bool is_withdrawn = false;
};

// Ranks that make calls together. A pair's first rank sends to its second.
struct Group {
  bool is_pair = false;
  std::vector<int> ranks;
  std::mutex mutex;
  std::vector<std::uint64_t> calls;         // made so far, by place
  std::uint64_t first = 0;                  // number of open.front()
  std::deque<std::shared_ptr<Round>> open;  // calls that not all have made yet
  std::optional<std::size_t> ended;         // place of a rank that makes no more calls
};

// What the ranks share: groups, where each rank sleeps, and the first failure.
class World {
 public:
  World(int ranks, const CommunicatorOptions& options);

  const CommunicatorOptions& options() const { return options_; }
  int size() const { return int(seats_.size()); }
  Group& group(std::span<const int> ranks, bool is_pair);

  // The number of times that something happened to this rank.
  std::uint64_t events(int rank) const { return seats_[std::size_t(rank)].events; }
  void wake(int rank);
  // Until events(rank) is no longer `seen`, or `until`. When no rank is left awake, all fail.
  void sleep(int rank, std::uint64_t seen, const ThreadPending& reason, Clock::time_point until);

  // The first failure counts. `nobody`: the text itself names the ranks.
  static constexpr int nobody = -1;
  void fail(int rank, const std::string& what, const std::string& where = {});
  // The watchdog's: those who wait report it before they throw.
  void give_up(const std::string& what);
  bool has_given_up() const { return has_given_up_; }
  void end(int rank);  // its body has returned
  void throw_if_failed(bool is_outside = false);

 private:
  struct Seat {
    std::mutex mutex;
    std::condition_variable changed;
    std::atomic<std::uint64_t> events{0};
    bool sleeps = false;
    const ThreadPending* reason = nullptr;  // while it sleeps
  };

  std::string who_waits();

  CommunicatorOptions options_;
  bool spins_;
  std::deque<Seat> seats_;
  std::atomic<int> asleep_{0};  // or ended
  std::mutex mutex_;            // guards what follows; taken before a group's
  std::map<std::pair<bool, std::vector<int>>, Group> groups_;
  std::vector<bool> ended_;
  std::atomic<bool> has_failed_{false}, has_given_up_{false};
  int failed_rank_ = -1;
  std::string failure_, where_;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(World& world, int rank) : world_(&world), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  std::unique_ptr<Pending> exchange(std::span<const int> group, const Call& call,
                                    std::vector<ConstBytes> send,
                                    std::vector<Bytes> receive) override;
  std::unique_ptr<Pending> send(int to, const Call& call, ConstBytes bytes) override;
  std::unique_ptr<Pending> receive(int from, const Call& call, Bytes bytes) override;
  void abort(const std::string& message) override { world_->fail(rank_, message); }
  const std::vector<Traffic>& traffic() const override { return traffic_; }

  // For ThreadPending.
  World& world() const { return *world_; }
  void progress();
  void wait(const ThreadPending& pending);
  void forget(ThreadPending& pending);

 private:
  struct Membership {
    Group* group;
    std::size_t place;
  };

  Membership find(std::span<const int> ranks, bool is_pair);
  std::unique_ptr<Pending> post(Membership membership, const Call& call,
                                std::vector<ConstBytes> send, std::vector<Bytes> receive);
  void wake_others(const Group& group);
  void give_up(const ThreadPending& pending);  // the watchdog's time is over

  World* world_;
  int rank_;
  std::map<std::pair<bool, std::vector<int>>, Membership> memberships_;
  std::vector<ThreadPending*> flight_;
  std::vector<Traffic> traffic_;
};

// One rank's part in a call.
class ThreadPending : public Pending {
 public:
  ThreadPending(ThreadCommunicator& communicator, Group& group, std::size_t place, const Call& call,
                std::uint64_t number, std::vector<ConstBytes> send, std::vector<Bytes> receive)
      : communicator_(&communicator),
        group_(&group),
        place_(place),
        call_(call),
        number_(number),
        send_(std::move(send)),
        receive_(std::move(receive)) {}
  ~ThreadPending() override;

  bool poll() override;
  void wait() override { communicator_->wait(*this); }

  // Takes its place in the group's next round; true if all are there now.
  bool join();
  // Copies what comes to this rank once all are there; true if all ranks have copied now.
  bool copy();
  bool is_done() const { return has_copied_ && round_->copied == int(group_->ranks.size()); }

  const Group& group() const { return *group_; }
  int rank() const { return group_->ranks[place_]; }
  std::string text() const { return pf::text(call_); }
  std::string text_of_wait() const;
  std::vector<int> missing() const;  // ranks that have not made the call
  std::uint64_t number() const { return number_; }

 private:
  void check_alike(const ThreadPending& other, std::uint64_t number) const;
  void copy_pieces();

  ThreadCommunicator* communicator_;
  Group* group_;
  std::size_t place_;
  Call call_;
  std::uint64_t number_;  // in the journal
  std::vector<ConstBytes> send_;
  std::vector<Bytes> receive_;
  std::shared_ptr<Round> round_;  // null: not joined
  bool has_copied_ = false;
};

// ---- World ----

// Spinning pays only where every rank has a processor.
World::World(int ranks, const CommunicatorOptions& options)
    : options_(options),
      spins_(ranks <= int(std::thread::hardware_concurrency())),
      seats_(std::size_t(ranks)),
      ended_(std::size_t(ranks)) {}

Group& World::group(std::span<const int> ranks, bool is_pair) {
  const std::lock_guard lock(mutex_);
  const auto [found, is_new] =
      groups_.try_emplace({is_pair, std::vector<int>(ranks.begin(), ranks.end())});
  Group& group = found->second;
  if (!is_new) return group;
  group.is_pair = is_pair;
  group.ranks.assign(ranks.begin(), ranks.end());
  group.calls.resize(ranks.size());
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (ended_[std::size_t(ranks[i])]) group.ended = i;
  return group;
}

void World::wake(int rank) {
  Seat& seat = seats_[std::size_t(rank)];
  {
    const std::lock_guard lock(seat.mutex);
    ++seat.events;
    if (std::exchange(seat.sleeps, false)) --asleep_;
  }
  seat.changed.notify_one();
}

void World::sleep(int rank, std::uint64_t seen, const ThreadPending& reason,
                  Clock::time_point until) {
  constexpr int spins = 2000;  // some microseconds: about what sleeping and waking costs
  Seat& seat = seats_[std::size_t(rank)];
  for (int i = 0; spins_ && i < spins; ++i) {
    if (seat.events != seen) return;
    __builtin_ia32_pause();
  }
  bool is_last = false;
  {
    const std::lock_guard lock(seat.mutex);
    if (seat.events != seen) return;
    seat.sleeps = true;
    seat.reason = &reason;
    is_last = ++asleep_ == size();
  }
  // Only a rank that is awake wakes another, so that nobody would come.
  if (is_last) fail(nobody, who_waits());
  std::unique_lock lock(seat.mutex);
  const auto is_woken = [&] { return seat.events != seen; };
  if (until == Clock::time_point::max())
    seat.changed.wait(lock, is_woken);
  else
    seat.changed.wait_until(lock, until, is_woken);
  seat.reason = nullptr;
  if (std::exchange(seat.sleeps, false)) --asleep_;
}

std::string World::who_waits() {
  constexpr int most = 8;
  std::string out = "all ranks wait or have ended";
  int count = 0;
  for (Seat& seat : seats_) {
    const std::lock_guard lock(seat.mutex);
    if (seat.reason == nullptr) continue;
    if (++count > most) return out + "; and others";
    out += (count == 1 ? ": " : "; ") + seat.reason->text_of_wait();
  }
  return out;
}

void World::fail(int rank, const std::string& what, const std::string& where) {
  {
    const std::lock_guard lock(mutex_);
    if (has_failed_) return;
    failed_rank_ = rank;
    failure_ = what;
    where_ = where;
    has_failed_ = true;
  }
  for (int r = 0; r < size(); ++r) wake(r);
}

void World::give_up(const std::string& what) {
  if (!has_failed_) has_given_up_ = true;
  fail(nobody, what);
}

void World::end(int rank) {
  std::string missed;
  bool is_last = false, all_ended = true;
  {
    const std::lock_guard lock(mutex_);
    ended_[std::size_t(rank)] = true;
    for (auto& [key, group] : groups_) {
      const auto found = std::ranges::find(group.ranks, rank);
      if (found == group.ranks.end()) continue;
      const auto place = std::size_t(found - group.ranks.begin());
      const std::lock_guard group_lock(group.mutex);
      group.ended = place;
      const std::uint64_t next = group.calls[place] - group.first;
      if (next >= group.open.size()) continue;
      for (const ThreadPending* post : group.open[next]->posts)
        if (post != nullptr) missed = post->text_of_wait();
    }
    for (const bool has_ended : ended_) all_ended = all_ended && has_ended;
    is_last = ++asleep_ == size();
  }
  if (!missed.empty()) fail(nobody, "rank " + std::to_string(rank) + " has ended; " + missed);
  if (is_last && !all_ended) fail(nobody, who_waits());
}

void World::throw_if_failed(bool is_outside) {
  if (!has_failed_) return;
  const std::lock_guard lock(mutex_);
  if (failed_rank_ == nobody) throw Error(failure_, where_);
  const std::string who = "rank " + std::to_string(failed_rank_);
  throw Error(who + (is_outside ? ": " : " failed: ") + failure_, where_);
}

// ---- ThreadPending ----

ThreadPending::~ThreadPending() {
  if (round_ == nullptr) return;
  communicator_->forget(*this);
  if (is_done()) return;
  {
    const std::lock_guard lock(group_->mutex);
    round_->is_withdrawn = true;
  }
  for (int readers = round_->readers; readers > 0; readers = round_->readers)
    round_->readers.wait(readers);
  {
    const std::lock_guard lock(group_->mutex);
    round_->posts[place_] = nullptr;
  }
  // While an exception passes, that is the cause, and whoever catches it reports it.
  if (std::uncaught_exceptions() == 0)
    communicator_->world().fail(rank(), text() + " was dropped before it had ended");
}

bool ThreadPending::poll() {
  communicator_->progress();
  if (is_done()) return true;
  communicator_->world().throw_if_failed();
  return false;
}

bool ThreadPending::join() {
  const std::lock_guard lock(group_->mutex);
  const std::uint64_t number = group_->calls[place_];
  if (group_->ended)
    require(number < group_->calls[*group_->ended], "rank ", group_->ranks[*group_->ended],
            " has ended; ", text_of_wait());
  const std::size_t at = number - group_->first;
  if (at == group_->open.size())
    group_->open.push_back(std::make_shared<Round>(group_->ranks.size()));
  for (const ThreadPending* other : group_->open[at]->posts) {
    if (other == nullptr) continue;
    check_alike(*other, number);
    break;
  }
  ++group_->calls[place_];
  round_ = group_->open[at];
  round_->posts[place_] = this;
  const bool is_last = ++round_->arrived == int(group_->ranks.size());
  if (is_last) {
    group_->open.pop_front();
    ++group_->first;
  }
  return is_last;
}

std::string ThreadPending::text_of_wait() const {
  std::ostringstream out;
  out << "rank " << rank() << " waits in " << text();
  if (group_->is_pair)
    out << (place_ == 0 ? " to rank " : " from rank ") << group_->ranks[1 - place_];
  return out.str();
}

std::vector<int> ThreadPending::missing() const {
  std::vector<int> out;
  const std::lock_guard lock(group_->mutex);
  for (std::size_t i = 0; i < round_->posts.size(); ++i)
    if (round_->posts[i] == nullptr) out.push_back(group_->ranks[i]);
  return out;
}

void ThreadPending::check_alike(const ThreadPending& other, std::uint64_t number) const {
  const Call &a = other.call_, &b = call_;
  const bool alike = std::string_view(a.kind) == b.kind && a.set == b.set && a.type == b.type &&
                     a.is_uneven == b.is_uneven && (a.is_uneven || a.shape == b.shape);
  require(alike, "ranks make different calls: rank ", other.rank(), " makes ", other.text(),
          ", rank ", rank(), " makes ", text(), ", as call ", number, " of their group");
}

bool ThreadPending::copy() {
  const int all = int(group_->ranks.size());
  if (has_copied_ || round_->arrived != all) return false;
  {
    const std::lock_guard lock(group_->mutex);
    if (round_->is_withdrawn) return false;
    ++round_->readers;
  }
  struct Reading {
    Round* round;
    ~Reading() {
      --round->readers;
      round->readers.notify_all();
    }
  };
  {
    const Reading reading{round_.get()};
    copy_pieces();
  }
  has_copied_ = true;
  return ++round_->copied == all;
}

void ThreadPending::copy_pieces() {
  for (std::size_t i = 0; i < receive_.size(); ++i) {
    const ThreadPending& other = *round_->posts[i];
    const ConstBytes from = other.send_[place_];
    const Bytes to = receive_[i];
    require(from.size() == to.size(), "rank ", other.rank(), " sends ", from.size(),
            " bytes to rank ", rank(), " in ", other.text(), ", but rank ", rank(), " wants ",
            to.size(), " in ", text());
    if (from.data() != nullptr && to.data() != nullptr && from.data() != to.data())
      std::ranges::copy(from, to.begin());
  }
}

// ---- ThreadCommunicator ----

ThreadCommunicator::Membership ThreadCommunicator::find(std::span<const int> ranks, bool is_pair) {
  const auto [found, is_new] = memberships_.try_emplace(
      {is_pair, std::vector<int>(ranks.begin(), ranks.end())}, Membership{});
  if (is_new) {
    const auto self = std::ranges::find(ranks, rank_);
    const bool fits = self != ranks.end() &&
                      std::ranges::all_of(ranks, [&](int r) { return r >= 0 && r < size(); });
    if (!fits) memberships_.erase(found);
    require(fits, "rank ", rank_, " of ", size(),
            ": not in the group, or the group is not of the world");
    found->second = {&world_->group(ranks, is_pair), std::size_t(self - ranks.begin())};
  }
  return found->second;
}

std::unique_ptr<Pending> ThreadCommunicator::exchange(std::span<const int> group, const Call& call,
                                                      std::vector<ConstBytes> send,
                                                      std::vector<Bytes> receive) {
  require(send.size() == group.size() && receive.size() == group.size(), text(call), ": ",
          send.size(), " and ", receive.size(), " pieces for ", group.size(), " ranks");
  return post(find(group, false), call, std::move(send), std::move(receive));
}

std::unique_ptr<Pending> ThreadCommunicator::send(int to, const Call& call, ConstBytes bytes) {
  const int ranks[] = {rank_, to};
  return post(find(ranks, true), call, {{}, bytes}, {{}, {}});
}

std::unique_ptr<Pending> ThreadCommunicator::receive(int from, const Call& call, Bytes bytes) {
  const int ranks[] = {from, rank_};
  return post(find(ranks, true), call, {{}, {}}, {bytes, {}});
}

std::unique_ptr<Pending> ThreadCommunicator::post(Membership membership, const Call& call,
                                                  std::vector<ConstBytes> send,
                                                  std::vector<Bytes> receive) {
  world_->throw_if_failed();
  Group& group = *membership.group;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < send.size(); ++i)
    if (i != membership.place) bytes += send[i].size();
  count(traffic_, call, bytes);
  auto pending = std::make_unique<ThreadPending>(*this, group, membership.place, call,
                                                 journal_.add(call, bytes, group.ranks),
                                                 std::move(send), std::move(receive));
  bool is_last = false;
  try {
    is_last = pending->join();
  } catch (const Error& error) {
    world_->fail(World::nobody, error.what(), error.where());
    throw;
  }
  flight_.push_back(pending.get());
  if (is_last) wake_others(group);
  return pending;
}

void ThreadCommunicator::wake_others(const Group& group) {
  for (const int r : group.ranks)
    if (r != rank_) world_->wake(r);
}

void ThreadCommunicator::progress() {
  try {
    for (ThreadPending* pending : flight_)
      if (pending->copy()) wake_others(pending->group());
  } catch (const Error& error) {
    world_->fail(World::nobody, error.what(), error.where());
    throw;
  }
  std::erase_if(flight_, [&](const ThreadPending* pending) {
    if (pending->is_done()) journal_.end(pending->number());
    return pending->is_done();
  });
}

void ThreadCommunicator::wait(const ThreadPending& pending) {
  Span span("wait", "wait");
  if (span.is_recorded()) span.fact("call", pending.text());
  const double seconds = world_->options().watchdog;
  const auto until = seconds > 0 ? Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                      std::chrono::duration<double>(seconds))
                                 : Clock::time_point::max();
  for (;;) {
    const std::uint64_t seen = world_->events(rank_);
    progress();
    if (pending.is_done()) return;
    if (Clock::now() >= until) give_up(pending);
    if (world_->has_given_up() && world_->options().report)
      world_->options().report(rank_, journal_.text());
    world_->throw_if_failed();
    world_->sleep(rank_, seen, pending, until);
  }
}

void ThreadCommunicator::give_up(const ThreadPending& pending) {
  world_->give_up(text_of_giving_up(pending.text_of_wait(), journal_.place,
                                    world_->options().watchdog, pending.missing()));
}

void ThreadCommunicator::forget(ThreadPending& pending) {
  std::erase(flight_, &pending);
}

// The one place where ranks start: a world of a thousand will want smaller stacks.
void run_rank(World& world, int rank, const std::function<void(Communicator&)>& body) {
  try {
    ThreadCommunicator communicator(world, rank);
    body(communicator);
    world.end(rank);
  } catch (const Error& error) {
    world.fail(rank, error.what(), error.where());
  } catch (const std::exception& error) {
    world.fail(rank, error.what());
  } catch (...) {
    world.fail(rank, "an exception that is not an Error");
  }
}

}  // namespace

void run_thread_ranks(int ranks, const std::function<void(Communicator&)>& body,
                      const CommunicatorOptions& options) {
  require(ranks > 0, "thread ranks: ", ranks, "; at least one is wanted");
  World world(ranks, options);
  std::vector<std::thread> threads;
  try {
    for (int r = 0; r < ranks; ++r)
      threads.emplace_back([&world, r, &body] { run_rank(world, r, body); });
  } catch (const std::system_error& error) {
    world.fail(int(threads.size()), std::string("its thread did not start: ") + error.what());
  }
  for (std::thread& thread : threads) thread.join();
  world.throw_if_failed(true);
}

}  // namespace pf
