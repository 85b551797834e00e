#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <map>
#include <thread>

#include "core/error.h"
#include "parallel/mpi_communicator.h"

namespace pf {
namespace {

using Clock = std::chrono::steady_clock;

// MPI counts in int.
constexpr std::size_t largest_message = std::size_t{1} << 30;

std::uint64_t hash(std::string_view bytes) {  // FNV-1a
  std::uint64_t h = 14695981039346656037u;
  for (const char c : bytes) h = (h ^ std::uint8_t(c)) * 1099511628211u;
  return h;
}

// What a rank says of a call to the others before it sends, when calls are checked.
struct Header {
  std::uint64_t alike = 0;  // equal where the calls are
  char text[248] = {};

  Header() = default;
  explicit Header(const Call& call) {
    Call same = call;
    same.tensor.clear();
    if (call.is_uneven) same.shape = {};
    alike = hash(pf::text(same));
    const std::string full = pf::text(call);
    std::copy_n(full.data(), std::min(full.size(), sizeof text - 1), text);
  }
};
static_assert(sizeof(Header) == 256);

// Ranks that make calls together; each has a tag of its own for data, and the next one for headers.
struct Group {
  std::vector<int> ranks;
  bool is_pair = false;  // the first sends to the second
  int tag = 0;
  std::uint64_t calls = 0;   // made so far by this rank
  std::uint64_t posted = 0;  // of these, those whose data is on its way
};

class MpiPending;

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, CommunicatorOptions options, int ranks_here);
  ~MpiCommunicator() override;
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Pending> exchange(std::span<const int> group, const Call& call,
                                    std::vector<ConstBytes> send,
                                    std::vector<Bytes> receive) override;
  std::unique_ptr<Pending> send(int to, const Call& call, ConstBytes bytes) override;
  std::unique_ptr<Pending> receive(int from, const Call& call, Bytes bytes) override;
  void abort(const std::string& message) override;
  const std::vector<Traffic>& traffic() const override { return traffic_; }

  // For MpiPending.
  MPI_Comm comm() const { return comm_; }
  bool checks_calls() const { return options_.checks_calls; }
  void progress();
  void wait(const MpiPending& pending);
  void forget(MpiPending& pending) { std::erase(flight_, &pending); }
  void fail(const std::string& message);

 private:
  Group& find(std::span<const int> ranks);
  Group& pair(int from, int to);
  std::unique_ptr<Pending> post(Group& group, const Call& call, std::vector<ConstBytes> send,
                                std::vector<Bytes> receive);
  [[noreturn]] void give_up(const MpiPending& pending);
  void throw_if_failed() const { require(failure_.empty(), failure_); }

  MPI_Comm comm_;
  CommunicatorOptions options_;
  int rank_ = 0, size_ = 0, largest_tag_ = 0;
  bool is_crowded_;  // more ranks than processors here
  std::map<std::vector<int>, Group> groups_;
  std::map<std::pair<int, int>, Group> pairs_;  // from, to
  std::vector<MpiPending*> flight_;
  std::vector<Traffic> traffic_;
  std::string failure_;
};

// One rank's part in a call: headers, if calls are checked, then data.
class MpiPending : public Pending {
 public:
  MpiPending(MpiCommunicator& communicator, Group& group, const Call& call, std::uint64_t number,
             std::vector<ConstBytes> send, std::vector<Bytes> receive)
      : communicator_(&communicator),
        group_(&group),
        call_(call),
        number_(number),
        place_in_group_(group.calls++),
        send_(std::move(send)),
        receive_(std::move(receive)) {
    if (communicator.checks_calls()) post_headers();
    advance();
  }
  ~MpiPending() override {
    communicator_->forget(*this);
    // While an exception passes, that is the cause; MPI is used no more then.
    if (!is_done_ && std::uncaught_exceptions() == 0)
      communicator_->fail(pf::text(call_) + " was dropped before it had ended");
  }

  bool poll() override {
    communicator_->progress();
    return is_done_;
  }
  void wait() override { communicator_->wait(*this); }

  // What can be done without waiting.
  void advance();
  bool is_done() const { return is_done_; }
  std::uint64_t number() const { return number_; }
  std::string text() const { return pf::text(call_); }
  std::string text_of_wait() const {
    std::string out = "waits in " + text();
    const int self = communicator_->rank();
    for (const int peer : group_->ranks)
      if (group_->is_pair && peer != self)
        out += (self == group_->ranks[0] ? " to rank " : " from rank ") + std::to_string(peer);
    return out;
  }
  // Ranks whose messages have not come; if all have, those that have not fetched theirs.
  std::vector<int> missing() const;

 private:
  enum class Kind : std::uint8_t { sending, receiving };
  struct Message {
    int peer;  // rank
    Kind kind;
    std::size_t bytes;
  };

  bool is_self(std::size_t i) const { return group_->ranks[i] == communicator_->rank(); }
  void receive(int peer, int tag, Bytes bytes);
  void send(int peer, int tag, ConstBytes bytes);
  void post_headers();
  void post_data();
  void check_headers() const;
  std::vector<int> peers_under_way(Kind kind) const;
  bool test();  // whether all messages under way have ended

  MpiCommunicator* communicator_;
  Group* group_;
  Call call_;
  std::uint64_t number_, place_in_group_;
  std::vector<ConstBytes> send_;
  std::vector<Bytes> receive_;
  Header own_;
  std::vector<Header> headers_;  // of the group's ranks
  std::vector<MPI_Request> requests_;
  std::vector<Message> messages_;  // of the requests
  std::vector<MPI_Status> statuses_;
  bool is_agreed_ = false, has_posted_ = false, is_done_ = false;
};

void MpiPending::receive(int peer, int tag, Bytes bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += largest_message) {
    const std::size_t part = std::min(largest_message, bytes.size() - at);
    messages_.push_back({peer, Kind::receiving, part});
    check(MPI_Irecv(bytes.data() + at, int(part), MPI_BYTE, peer, tag, communicator_->comm(),
                    &requests_.emplace_back(MPI_REQUEST_NULL)),
          "receive");
  }
}

void MpiPending::send(int peer, int tag, ConstBytes bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += largest_message) {
    const std::size_t part = std::min(largest_message, bytes.size() - at);
    messages_.push_back({peer, Kind::sending, part});
    check(MPI_Isend(bytes.data() + at, int(part), MPI_BYTE, peer, tag, communicator_->comm(),
                    &requests_.emplace_back(MPI_REQUEST_NULL)),
          "send");
  }
}

void MpiPending::post_headers() {
  own_ = Header(call_);
  headers_.assign(group_->ranks.size(), own_);
  for (std::size_t i = 0; i < group_->ranks.size(); ++i) {
    if (is_self(i)) continue;
    receive(group_->ranks[i], group_->tag + 1, std::as_writable_bytes(std::span(&headers_[i], 1)));
    send(group_->ranks[i], group_->tag + 1, std::as_bytes(std::span(&own_, 1)));
  }
}

void MpiPending::check_headers() const {
  for (std::size_t i = 0; i < headers_.size(); ++i) {
    if (headers_[i].alike == own_.alike) continue;
    // All ranks name the pair in the same order.
    const int peer = group_->ranks[i], self = communicator_->rank();
    const char *lower = peer < self ? headers_[i].text : own_.text,
               *upper = peer < self ? own_.text : headers_[i].text;
    require(false, "ranks make different calls: rank ", std::min(peer, self), " makes ", lower,
            ", rank ", std::max(peer, self), " makes ", upper, ", as call ", place_in_group_,
            " of their group");
  }
}

void MpiPending::post_data() {
  for (std::size_t i = 0; i < group_->ranks.size(); ++i) {
    const ConstBytes from = send_[i];
    const Bytes to = receive_[i];
    if (is_self(i)) {
      require(from.size() == to.size() || from.empty() || to.empty(), "rank ",
              communicator_->rank(), " sends ", from.size(), " bytes to itself in ",
              pf::text(call_), " and wants ", to.size());
      if (from.data() != nullptr && to.data() != nullptr && from.data() != to.data())
        std::memcpy(to.data(), from.data(), to.size());
      continue;
    }
    if (to.data() != nullptr) receive(group_->ranks[i], group_->tag, to);
    if (from.data() != nullptr) send(group_->ranks[i], group_->tag, from);
  }
}

bool MpiPending::test() {
  if (requests_.empty()) return true;
  statuses_.resize(requests_.size());
  int is_all = 0;
  const int code = MPI_Testall(int(requests_.size()), requests_.data(), &is_all, statuses_.data());
  if (code == MPI_SUCCESS && is_all == 0) return false;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    const Message& message = messages_[i];
    const bool has_failed = code == MPI_ERR_IN_STATUS && statuses_[i].MPI_ERROR != MPI_SUCCESS &&
                            statuses_[i].MPI_ERROR != MPI_ERR_PENDING;
    if (has_failed) {
      int kind = MPI_SUCCESS;
      MPI_Error_class(statuses_[i].MPI_ERROR, &kind);
      require(kind != MPI_ERR_TRUNCATE, "rank ", message.peer, " sends more bytes to rank ",
              communicator_->rank(), " than it wants, ", message.bytes, ", in ", pf::text(call_));
      check(statuses_[i].MPI_ERROR, "a message");
    }
    if (is_all == 0 || message.kind == Kind::sending) continue;
    int came = 0;
    MPI_Get_count(&statuses_[i], MPI_BYTE, &came);
    require(std::size_t(came) == message.bytes, "rank ", message.peer, " sends ", came,
            " bytes to rank ", communicator_->rank(), " in ", pf::text(call_), ", but rank ",
            communicator_->rank(), " wants ", message.bytes);
  }
  if (code != MPI_ERR_IN_STATUS) check(code, "a message");
  return is_all != 0;
}

void MpiPending::advance() {
  if (is_done_) return;
  if (!is_agreed_) {
    if (!test()) return;
    if (communicator_->checks_calls()) check_headers();
    requests_.clear();
    messages_.clear();
    is_agreed_ = true;
  }
  if (!has_posted_) {
    if (group_->posted != place_in_group_) return;  // messages of one tag keep their order
    post_data();
    ++group_->posted;
    has_posted_ = true;
  }
  is_done_ = test();
}

std::vector<int> MpiPending::missing() const {
  const std::vector<int> silent = peers_under_way(Kind::receiving);
  return silent.empty() ? peers_under_way(Kind::sending) : silent;
}

std::vector<int> MpiPending::peers_under_way(Kind kind) const {
  std::vector<int> peers;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (messages_[i].kind != kind || requests_[i] == MPI_REQUEST_NULL) continue;
    int has_ended = 0;
    MPI_Request_get_status(requests_[i], &has_ended, MPI_STATUS_IGNORE);
    if (has_ended == 0) peers.push_back(messages_[i].peer);
  }
  std::ranges::sort(peers);
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

MpiCommunicator::MpiCommunicator(MPI_Comm comm, CommunicatorOptions options, int ranks_here)
    : comm_(comm),
      options_(std::move(options)),
      is_crowded_(ranks_here > int(std::thread::hardware_concurrency())) {
  check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "error handler");
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  void* value = nullptr;
  int is_set = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &value, &is_set);
  largest_tag_ = is_set != 0 ? *static_cast<int*>(value) : 32767;
}

MpiCommunicator::~MpiCommunicator() {
  if (std::uncaught_exceptions() == 0 && failure_.empty() && mpi_is_running())
    MPI_Comm_free(&comm_);
}

// The tag follows from the ranks alone. Two groups of one tag would mix up messages of those who
// are in both, and these see it here.
Group& MpiCommunicator::find(std::span<const int> ranks) {
  const auto [found, is_new] = groups_.try_emplace({ranks.begin(), ranks.end()});
  Group& group = found->second;
  if (!is_new) return group;
  group.ranks.assign(ranks.begin(), ranks.end());
  const bool fits = std::ranges::find(ranks, rank_) != ranks.end() &&
                    std::ranges::all_of(ranks, [&](int r) { return r >= 0 && r < size_; });
  if (!fits) groups_.erase(found);
  require(fits, "rank ", rank_, " of ", size_,
          ": not in the group, or the group is not of the world");
  const std::string_view bytes(reinterpret_cast<const char*>(ranks.data()), ranks.size_bytes());
  group.tag = 2 + 2 * int(hash(bytes) % std::uint64_t(largest_tag_ / 2 - 2));
  for (const auto& [others, other] : groups_)
    require(&other == &group || other.tag != group.tag, "two groups of ", others.size(), " and ",
            ranks.size(), " ranks have the same MPI tag ", group.tag);
  return group;
}

std::unique_ptr<Pending> MpiCommunicator::exchange(std::span<const int> group, const Call& call,
                                                   std::vector<ConstBytes> send,
                                                   std::vector<Bytes> receive) {
  require(send.size() == group.size() && receive.size() == group.size(), text(call), ": ",
          send.size(), " and ", receive.size(), " pieces for ", group.size(), " ranks");
  return post(find(group), call, std::move(send), std::move(receive));
}

std::unique_ptr<Pending> MpiCommunicator::send(int to, const Call& call, ConstBytes bytes) {
  return post(pair(rank_, to), call, {{}, bytes}, {{}, {}});
}

std::unique_ptr<Pending> MpiCommunicator::receive(int from, const Call& call, Bytes bytes) {
  return post(pair(from, rank_), call, {{}, {}}, {bytes, {}});
}

Group& MpiCommunicator::pair(int from, int to) {
  Group& group = pairs_[{from, to}];
  if (group.ranks.empty()) group = {.ranks = {from, to}, .is_pair = true};  // tag 0
  return group;
}

std::unique_ptr<Pending> MpiCommunicator::post(Group& group, const Call& call,
                                               std::vector<ConstBytes> send,
                                               std::vector<Bytes> receive) {
  throw_if_failed();
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < send.size(); ++i)
    if (group.ranks[i] != rank_) bytes += send[i].size();
  count(traffic_, call, bytes);
  auto pending =
      std::make_unique<MpiPending>(*this, group, call, journal_.add(call, bytes, group.ranks),
                                   std::move(send), std::move(receive));
  if (pending->is_done())
    journal_.end(pending->number());
  else
    flight_.push_back(pending.get());
  return pending;
}

void MpiCommunicator::progress() {
  throw_if_failed();
  for (MpiPending* pending : flight_) pending->advance();
  std::erase_if(flight_, [&](const MpiPending* pending) {
    if (pending->is_done()) journal_.end(pending->number());
    return pending->is_done();
  });
}

// Spins for a while, then lets others run, then sleeps in short spells: a rank that waits long for
// one on the same processor must not take its time.
void MpiCommunicator::wait(const MpiPending& pending) {
  constexpr int spins = 2000, yields = 4000;
  const auto begin = Clock::now();
  Span span("wait", "wait");
  if (span.is_recorded()) span.fact("call", pending.text());
  for (int i = is_crowded_ ? spins : 0; !pending.is_done(); ++i) {
    progress();
    if (pending.is_done() || i < spins) continue;
    if (i < yields) {
      sched_yield();
      continue;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (options_.watchdog > 0 && seconds > options_.watchdog) give_up(pending);
  }
}

void MpiCommunicator::give_up(const MpiPending& pending) {
  if (options_.report) options_.report(rank_, journal_.text());
  fail(text_of_giving_up(pending.text_of_wait(), journal_.place, options_.watchdog,
                         pending.missing()));
  throw Error(failure_);
}

void MpiCommunicator::fail(const std::string& message) {
  if (failure_.empty()) failure_ = message;
}

void MpiCommunicator::abort(const std::string& message) {
  fail(message);
  throw Error(message);
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm comm,
                                                    const CommunicatorOptions& options,
                                                    int ranks_here) {
  return std::make_unique<MpiCommunicator>(comm, options, ranks_here);
}

}  // namespace pf
