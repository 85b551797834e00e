#include <algorithm>
#include <array>
#include <deque>
#include <limits>
#include <optional>
#include <set>

#include "parallel/schedule_orders.h"

namespace pf {
namespace {

using Kind = Action::Kind;

constexpr double never = std::numeric_limits<double>::infinity();

// How the list scheduling of a V is biased.
struct Bias {
  WorkTimes times;
  int lead = 0;      // how far forwards may be ahead of input gradients and still come first
  double slack = 0;  // how long tensors lie, but for the first and the last micro-batches
};

// List scheduling of a V. A rank does what is ready: the forward on the way up while it is at most
// `lead` forwards ahead, then input gradients, then forwards, and weight
// gradients where nothing else is ready or 2p are in flight. The way down leaves one of the 2p to
// the way up: without it no micro-batch would ever turn round.
class Greedy {
 public:
  Greedy(const ScheduleShape& shape, const Bias& bias)
      : shape_(shape),
        bias_(bias),
        ranks_(std::size_t(shape.stages)),
        forwards_(std::size_t(virtual_stages(shape)) * std::size_t(shape.micro_batches), never),
        gradients_(forwards_),
        order_(ranks_.size()) {}

  WorkOrder run() {
    for (moments_.insert(0); !moments_.empty(); moments_.erase(moments_.begin())) {
      now_ = *moments_.begin();
      for (int rank = 0; rank < shape_.stages; ++rank) {
        if (ranks_[std::size_t(rank)].free > now_) continue;
        if (const auto work = choose(rank)) start(rank, *work);
      }
    }
    return std::move(order_);
  }

 private:
  struct Rank {
    double free = 0;                          // the end of what it does
    std::array<int, 2> forwards{}, inputs{};  // begun, by chunk
    int weights = 0, weights_down = 0;
    std::deque<Action> deferred;
  };

  std::size_t slot(int stage, int micro_batch) const {
    return std::size_t(stage) * std::size_t(shape_.micro_batches) + std::size_t(micro_batch);
  }
  int stage(int rank, int chunk) const { return virtual_stage(shape_, rank, chunk); }

  // Whether `rank` may take what a virtual stage ended with at `end`.
  bool is_here(int rank, int from, int micro_batch, double end) const {
    return end + (rank_of(shape_, from) == rank ? 0 : slack(micro_batch)) <= now_;
  }
  double slack(int micro_batch) const {
    const int p = shape_.stages;
    return micro_batch >= p && micro_batch < shape_.micro_batches - p / 2 ? bias_.slack : 0;
  }

  bool can_forward(int rank, int chunk) const {
    const Rank& r = ranks_[std::size_t(rank)];
    const int i = r.forwards[std::size_t(chunk)], s = stage(rank, chunk), p = shape_.stages;
    if (i == shape_.micro_batches) return false;
    if (s > 0 && !is_here(rank, s - 1, i, forwards_[slot(s - 1, i)])) return false;
    if (chunk == 0 && r.forwards[0] - r.weights_down >= 2 * p - 1) return false;
    return r.forwards[0] + r.forwards[1] - r.weights < 2 * p;
  }
  bool can_backward(int rank, int chunk) const {
    const int i = ranks_[std::size_t(rank)].inputs[std::size_t(chunk)], s = stage(rank, chunk);
    if (i == shape_.micro_batches || forwards_[slot(s, i)] > now_) return false;
    return s + 1 == virtual_stages(shape_) || is_here(rank, s + 1, i, gradients_[slot(s + 1, i)]);
  }

  std::optional<Action> choose(int rank) const {
    const Rank& r = ranks_[std::size_t(rank)];
    const auto forward = [&](int chunk) {
      return Action{Kind::forward, chunk, r.forwards[std::size_t(chunk)]};
    };
    const int ahead = r.forwards[0] + r.forwards[1] - r.inputs[0] - r.inputs[1];
    if (ahead <= bias_.lead && can_forward(rank, 1)) return forward(1);
    for (const int chunk : {0, 1})
      if (can_backward(rank, chunk))
        return Action{Kind::input_gradient, chunk, r.inputs[std::size_t(chunk)]};
    for (const int chunk : {1, 0})
      if (can_forward(rank, chunk)) return forward(chunk);
    if (!r.deferred.empty()) return r.deferred.front();
    return {};
  }

  void start(int rank, const Action& a) {
    Rank& r = ranks_[std::size_t(rank)];
    const std::size_t here = slot(stage(rank, a.chunk), a.micro_batch);
    order_[std::size_t(rank)].push_back(a);
    if (a.kind == Kind::forward) {
      r.free = forwards_[here] = now_ + bias_.times.forward;
      ++r.forwards[std::size_t(a.chunk)];
    } else if (a.kind == Kind::input_gradient) {
      r.free = gradients_[here] = now_ + bias_.times.input_gradient;
      ++r.inputs[std::size_t(a.chunk)];
      r.deferred.push_back({Kind::weight_gradient, a.chunk, a.micro_batch});
    } else {
      r.free = now_ + bias_.times.weight_gradient;
      r.deferred.pop_front();
      ++r.weights;
      r.weights_down += a.chunk == 0 ? 1 : 0;
    }
    moments_.insert({r.free, r.free + slack(a.micro_batch)});
  }

  ScheduleShape shape_;
  Bias bias_;
  double now_ = 0;
  std::set<double> moments_;  // when something may have become ready
  std::vector<Rank> ranks_;
  std::vector<double> forwards_, gradients_;  // ends, by virtual stage and micro-batch
  WorkOrder order_;
};

// Of layers of transformers, from short sequences to long ones, where attention, whose backward has
// no weights, counts more.
constexpr std::array<WorkTimes, 6> likely{
    {{10, 10, 10}, {10, 11, 9}, {10, 12, 9}, {10, 13, 8}, {10, 14, 8}, {10, 16, 7}}};

// The squares of the bubbles with all likely times, in rounds of a chunk's work.
double cost(const ScheduleShape& shape, const WorkOrder& order) {
  double sum = 0;
  for (const WorkTimes& times : likely) {
    double makespan = 0;
    for (const std::vector<double>& ends : work_ends(shape, order, times))
      makespan = std::max(makespan, ends.back());
    const double rounds =
        makespan / (times.forward + times.input_gradient + times.weight_gradient) -
        2 * shape.micro_batches;
    sum += rounds * rounds;
  }
  return sum;
}

}  // namespace

// The order that is shortest for equal times has no slack: where an input gradient takes a little
// longer than a forward its bubble grows with every micro-batch. So several are made, and the one
// is taken that is best for all likely times together.
WorkOrder zero_bubble_v_order(const ScheduleShape& shape) {
  const int p = shape.stages;
  WorkOrder best;
  double least = never;
  for (const WorkTimes& times :
       {WorkTimes{10, 10, 10}, WorkTimes{10, 12, 8}, WorkTimes{10, 13, 10}, WorkTimes{10, 14, 8}})
    for (const int lead : {0, p / 2, p, p + p / 2, 2 * p})
      for (const double slack : {0, 2, 5}) {
        WorkOrder order = Greedy(shape, {times, lead, slack}).run();
        const double squares = cost(shape, order);
        if (squares >= least) continue;
        least = squares;
        best = std::move(order);
      }
  return best;
}

}  // namespace pf
