// How ranks talk: the only primitives are a non-blocking exchange of bytes within a group, and
// send/receive; everything else is built on them once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "core/spread.h"
#include "core/trace.h"

namespace pf {

// What a call says of itself. All ranks of a group must say the same kind, axes and type of their
// n-th call in it, and the same shape unless `is_uneven`; if not, all end with an Error that names
// both.
struct Call {
  const char* kind = "";
  Axes set;
  DType type = DType::u8;
  Shape shape;
  bool is_uneven = false;
  std::string tensor;  // a name for messages; may be empty
};
std::string text(const Call& call);  // "all_reduce on dp of w: f32 [4, 8]"

using Bytes = std::span<std::byte>;  // null data with a size on meta
using ConstBytes = std::span<const std::byte>;

// Something started. Buffers must live until wait() returns; destroying it unfinished withdraws it.
// The rank's communicator must outlive it.
class Pending {
 public:
  virtual ~Pending() = default;
  // Makes progress; true when done: all has come, and what was sent may be overwritten. Throws as
  // wait().
  virtual bool poll() = 0;
  virtual void wait() = 0;  // throws Error when another rank failed, naming the first cause
};

// What a rank sent to others, by kind and axes of the calls.
struct Traffic {
  std::string kind;
  std::string axes;
  std::int64_t calls = 0;
  std::int64_t bytes = 0;

  friend bool operator==(const Traffic&, const Traffic&) = default;
};
void count(std::vector<Traffic>& traffic, const Call& call, std::size_t bytes);

// Where a rank is in its program, for reports; -1 and empty: not there.
struct Place {
  std::int64_t step = -1, micro_batch = -1;
  std::string layer;
};
std::string text(const Place& place);  // "step 3, micro-batch 2, layers.1"; may be empty

// The last calls of a rank, each with the place that it was made from; a trace gets all of them.
class Journal {
 public:
  static constexpr std::size_t kept = 64;

  // A call among `ranks`, to which this one sends so many bytes. Its number, from 0.
  std::uint64_t add(const Call& call, std::size_t bytes, std::span<const int> ranks);
  void end(std::uint64_t number);
  // A line for each, oldest first: "  #12 all_reduce on dp of w: f32 [4, 8]; step 3, head; waits".
  std::string text() const;

  Place place;  // of the calls to come

 private:
  struct Entry {
    Call call;
    Place place;
    bool has_ended = false;
    Trace::Event flight;  // of a trace, if one records; from 0 where none did
  };
  std::array<Entry, kept> entries_;
  std::uint64_t count_ = 0;
};

struct CommunicatorOptions {
  // Seconds in one wait after which it is an Error that names the call, its place and the ranks
  // that are missing; 0: never. Each rank that waits then hands its journal to `report`.
  double watchdog = 0;
  std::function<void(int rank, const std::string& journal)> report;
  // Ranks compare what calls say of themselves (thread ranks always do).
  bool checks_calls = false;
};

// What the watchdog says of a rank that `waits` ("waits in all_reduce on dp of w: f32 [4, 8]") at
// `place`; `missing`: the ranks that have not come.
std::string text_of_giving_up(const std::string& waits, const Place& place, double seconds,
                              std::span<const int> missing);

// One rank's end of the line, used by that rank's thread only. Several calls may be in flight; they
// end in any order, and whoever waits for one makes progress with all of its rank.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Among `group`: world ranks in order, this one among them. send[i] goes to group[i], receive[i]
  // comes from group[i]; this rank's own piece is copied like the others. Sizes are known to both
  // sides.
  virtual std::unique_ptr<Pending> exchange(std::span<const int> group, const Call& call,
                                            std::vector<ConstBytes> send,
                                            std::vector<Bytes> receive) = 0;
  // The n-th send from a rank to another meets the n-th receive there; both describe it alike.
  virtual std::unique_ptr<Pending> send(int to, const Call& call, ConstBytes bytes) = 0;
  virtual std::unique_ptr<Pending> receive(int from, const Call& call, Bytes bytes) = 0;

  // Ends all ranks: everyone who waits, now or later, throws Error with the first such message.
  // Under MPI it is the caller that throws; end_mpi() then ends the others.
  virtual void abort(const std::string& message) = 0;

  virtual const std::vector<Traffic>& traffic() const = 0;

  // Says where the program is, for those who look into why it waits.
  void enter(Place place) { journal_.place = std::move(place); }
  const Journal& journal() const { return journal_; }

 protected:
  Journal journal_;
};

// Runs body on `ranks` threads, each with its own communicator of one world. When one throws, the
// others are woken; rethrows the first failure as Error, "rank 2: ..." before its text. Ranks that
// wait for one whose body has returned, or for each other, are a failure too, never a hang.
void run_thread_ranks(int ranks, const std::function<void(Communicator&)>& body,
                      const CommunicatorOptions& options = {});

// Nothing moves and nobody else is there: rank `rank` of `size`. Counts what would have moved.
class FakeCommunicator : public Communicator {
 public:
  FakeCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Pending> exchange(std::span<const int> group, const Call& call,
                                    std::vector<ConstBytes> send,
                                    std::vector<Bytes> receive) override;
  std::unique_ptr<Pending> send(int to, const Call& call, ConstBytes bytes) override;
  std::unique_ptr<Pending> receive(int from, const Call& call, Bytes bytes) override;
  void abort(const std::string& message) override;
  const std::vector<Traffic>& traffic() const override { return traffic_; }

 private:
  int rank_, size_;
  std::string failure_;
  std::vector<Traffic> traffic_;
};

}  // namespace pf
