#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "core/error.h"
#include "parallel/schedule.h"

namespace pf {
namespace {

using Kind = Action::Kind;

// A tensor on its way, named by the virtual stage that made it.
struct Parcel {
  int from = 0, to = 0;
  bool is_gradient = false;
  int stage = 0, micro_batch = 0;
  friend bool operator==(const Parcel&, const Parcel&) = default;
};

bool is_gradient(Kind kind) {
  return kind == Kind::send_backward || kind == Kind::receive_backward;
}

Parcel parcel(const ScheduleShape& shape, int rank, const Action& a) {
  const int other = peer(shape, rank, a), here = virtual_stage(shape, rank, a.chunk);
  if (is_send(a.kind)) return {rank, other, is_gradient(a.kind), here, a.micro_batch};
  return {other, rank, is_gradient(a.kind), here + (is_gradient(a.kind) ? 1 : -1), a.micro_batch};
}

std::string on(int rank, const Action& a) {
  return text(a) + " on rank " + std::to_string(rank);
}

// One rank's own order: what each action needs stands before it, and nothing is done twice.
class RankOrder {
 public:
  RankOrder(const Schedule& schedule, int rank)
      : shape_(schedule.shape), actions_(schedule.ranks[std::size_t(rank)]), rank_(rank) {}

  void check() {
    for (const Action& a : actions_) {
      require(a.chunk >= 0 && a.chunk < shape_.chunks && a.micro_batch >= 0 &&
                  a.micro_batch < shape_.micro_batches,
              "schedule: ", on(rank_, a), ": there are ", shape_.chunks, " chunks and ",
              shape_.micro_batches, " micro-batches");
      const bool deferred = a.kind == Kind::input_gradient || a.kind == Kind::weight_gradient;
      require(deferred ? defers_weights(shape_.kind)
                       : a.kind != Kind::backward || !defers_weights(shape_.kind),
              "schedule: ", on(rank_, a), ": ", pf::name(shape_.kind),
              defers_weights(shape_.kind)
                  ? " parts backward into input_gradient and weight_gradient"
                  : " has backward as a whole");
      if (const auto before = needed(a))
        require(done_.contains(key(*before)), "schedule: ", on(rank_, a), " comes without ",
                text(*before), " before it");
      require(done_.insert(key(a)).second, "schedule: ", on(rank_, a), " is there twice");
    }
    for (int chunk = 0; chunk < shape_.chunks; ++chunk)
      for (int i = 0; i < shape_.micro_batches; ++i) check_all_there(chunk, i);
  }

 private:
  using Key = std::tuple<Kind, int, int>;
  static Key key(const Action& a) { return {a.kind, a.chunk, a.micro_batch}; }
  Kind back() const { return defers_weights(shape_.kind) ? Kind::input_gradient : Kind::backward; }

  // What the virtual stage `by` after that of `a` gave it: received, or made here.
  std::optional<Action> input_from(const Action& a, int by, Kind made, Kind received) const {
    const int stage = virtual_stage(shape_, rank_, a.chunk) + by;
    if (stage < 0 || stage == virtual_stages(shape_)) return {};
    if (rank_of(shape_, stage) != rank_) return Action{received, a.chunk, a.micro_batch};
    return Action{made, chunk_of(shape_, stage), a.micro_batch};
  }

  std::optional<Action> needed(const Action& a) const {
    const Action forward{Kind::forward, a.chunk, a.micro_batch};
    const Action backward{back(), a.chunk, a.micro_batch};
    switch (a.kind) {
      case Kind::forward:
        return input_from(a, -1, Kind::forward, Kind::receive_forward);
      case Kind::backward:
      case Kind::input_gradient:
        if (!done_.contains(key(forward))) return forward;
        return input_from(a, 1, back(), Kind::receive_backward);
      case Kind::weight_gradient:
      case Kind::send_backward:
        return backward;
      case Kind::send_forward:
        return forward;
      case Kind::receive_forward:
      case Kind::receive_backward:
        return {};
    }
    return {};
  }

  void check_all_there(int chunk, int micro_batch) const {
    const int stage = virtual_stage(shape_, rank_, chunk);
    const auto is_away = [&](int other) {
      return other >= 0 && other < virtual_stages(shape_) && rank_of(shape_, other) != rank_;
    };
    std::vector<Kind> wanted{Kind::forward, back()};
    if (defers_weights(shape_.kind)) wanted.push_back(Kind::weight_gradient);
    if (is_away(stage - 1))
      wanted.insert(wanted.end(), {Kind::receive_forward, Kind::send_backward});
    if (is_away(stage + 1))
      wanted.insert(wanted.end(), {Kind::send_forward, Kind::receive_backward});
    for (const Kind kind : wanted)
      require(done_.contains({kind, chunk, micro_batch}),
              "schedule: ", on(rank_, {kind, chunk, micro_batch}), " is missing");
  }

  ScheduleShape shape_;
  const std::vector<Action>& actions_;
  int rank_;
  std::set<Key> done_;
};

void check_transfers(const Schedule& schedule) {
  std::map<std::pair<int, int>, std::vector<Parcel>> sent, received;
  for (int rank = 0; rank < schedule.shape.stages; ++rank)
    for (const Action& a : schedule.ranks[std::size_t(rank)]) {
      if (is_work(a.kind)) continue;
      const Parcel p = parcel(schedule.shape, rank, a);
      (is_send(a.kind) ? sent : received)[{p.from, p.to}].push_back(p);
    }
  const auto said = [](const Parcel& p) {
    return std::string(p.is_gradient ? "the gradient" : "the activations") + " of virtual stage " +
           std::to_string(p.stage) + ", micro-batch " + std::to_string(p.micro_batch);
  };
  // Their sets are equal: RankOrder has found each once.
  for (const auto& [pair, out] : sent) {
    const std::vector<Parcel>& in = received[pair];
    for (std::size_t i = 0; i < out.size(); ++i)
      require(i < in.size() && out[i] == in[i], "schedule: rank ", pair.first, " sends rank ",
              pair.second, " as number ", i, " ", said(out[i]), ", which receives ",
              i < in.size() ? said(in[i]) : "nothing");
  }
}

// Every rank goes on until it must wait for another.
void check_no_deadlock(const Schedule& schedule) {
  const auto& ranks = schedule.ranks;
  std::vector<std::size_t> next(ranks.size());
  const auto at = [&](int rank) {
    const auto& actions = ranks[std::size_t(rank)];
    const std::size_t i = next[std::size_t(rank)];
    return i < actions.size() ? &actions[i] : nullptr;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < schedule.shape.stages; ++rank)
      while (const Action* a = at(rank)) {
        if (!is_work(a->kind)) {
          const int other = peer(schedule.shape, rank, *a);
          const Action* b = at(other);
          if (!b || is_work(b->kind) || is_send(b->kind) == is_send(a->kind) ||
              parcel(schedule.shape, rank, *a) != parcel(schedule.shape, other, *b))
            break;
          ++next[std::size_t(other)];
        }
        ++next[std::size_t(rank)];
        moved = true;
      }
  }
  std::string waiting;
  for (int rank = 0; rank < schedule.shape.stages; ++rank)
    if (const Action* a = at(rank)) waiting += (waiting.empty() ? "" : ", ") + on(rank, *a);
  require(waiting.empty(), "schedule: with blocking sends these wait for each other: ", waiting);
}

}  // namespace

void check(const Schedule& schedule) {
  const ScheduleShape& shape = schedule.shape;
  require(schedule.ranks.size() == std::size_t(shape.stages), "schedule: ", text(shape), " has ",
          schedule.ranks.size(), " ranks");
  for (int rank = 0; rank < shape.stages; ++rank) RankOrder(schedule, rank).check();
  check_transfers(schedule);
  for (int rank = 0; rank < shape.stages; ++rank) {
    const int most = in_flight(schedule, rank), bound = in_flight_bound(shape, rank);
    require(most <= bound, "schedule: rank ", rank, " holds ", most,
            " micro-batches of a chunk at once; ", name(shape.kind), " allows ", bound);
  }
  check_no_deadlock(schedule);
}

}  // namespace pf
