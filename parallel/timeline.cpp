#include "parallel/timeline.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "core/error.h"

namespace pf {
namespace {

using Kind = Action::Kind;

double of_stage(const std::vector<double>& times, int stage) {
  return times[times.size() == 1 ? 0 : std::size_t(stage)];
}

double duration(const ActionTimes& times, const Action& a, int stage) {
  switch (a.kind) {
    case Kind::forward:
      return of_stage(times.forward, stage);
    case Kind::backward:
      return of_stage(times.input_gradient, stage) + of_stage(times.weight_gradient, stage);
    case Kind::input_gradient:
      return of_stage(times.input_gradient, stage);
    case Kind::weight_gradient:
      return of_stage(times.weight_gradient, stage);
    default:
      return 0;
  }
}

class Clocks {
 public:
  Clocks(const Schedule& schedule, const ActionTimes& times)
      : schedule_(schedule), times_(times), clocks_(schedule.ranks.size()) {
    out_.ranks.resize(schedule.ranks.size());
  }

  Timeline run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t rank = 0; rank < clocks_.size(); ++rank)
        while (advance(int(rank))) moved = true;
    }
    for (std::size_t rank = 0; rank < clocks_.size(); ++rank) {
      const std::size_t i = out_.ranks[rank].size();
      require(i == schedule_.ranks[rank].size(), "timeline: rank ", rank, " waits for ever before ",
              i < schedule_.ranks[rank].size() ? text(schedule_.ranks[rank][i]) : "");
      out_.makespan = std::max(out_.makespan, clocks_[rank].now);
    }
    for (const Clock& clock : clocks_) out_.bubbles.push_back(out_.makespan - clock.work);
    return std::move(out_);
  }

 private:
  // A tensor that travels: the virtual stage that made it, gradient or not, micro-batch.
  using Key = std::tuple<int, bool, int>;
  struct Clock {
    double now = 0, work = 0;
  };

  bool advance(int rank) {
    auto& spans = out_.ranks[std::size_t(rank)];
    const auto& actions = schedule_.ranks[std::size_t(rank)];
    if (spans.size() == actions.size()) return false;
    const Action& a = actions[spans.size()];
    auto& [now, work] = clocks_[std::size_t(rank)];
    const int stage = virtual_stage(schedule_.shape, rank, a.chunk);
    if (is_work(a.kind)) {
      const std::optional<double> arrival = input(rank, a, stage);
      if (!arrival) return false;
      const double begin = std::max(now, *arrival), takes = duration(times_, a, stage);
      now = begin + takes;
      work += takes;
      spans.push_back({begin, now});
    } else {
      if (is_send(a.kind))
        arrivals_[{stage, a.kind == Kind::send_backward, a.micro_batch}] = now + times_.send;
      spans.push_back({now, now});
    }
    return true;
  }

  // When what it takes from another rank is there, 0 if it takes nothing; empty: not sent yet.
  std::optional<double> input(int rank, const Action& a, int stage) const {
    const bool is_forward = a.kind == Kind::forward;
    const int from = stage + (is_forward ? -1 : 1);
    if (a.kind == Kind::weight_gradient || from < 0 || from == virtual_stages(schedule_.shape) ||
        rank_of(schedule_.shape, from) == rank)
      return 0;
    const auto found = arrivals_.find({from, !is_forward, a.micro_batch});
    return found == arrivals_.end() ? std::nullopt : std::optional(found->second);
  }

  const Schedule& schedule_;
  const ActionTimes& times_;
  std::vector<Clock> clocks_;
  std::map<Key, double> arrivals_;
  Timeline out_;
};

}  // namespace

ActionTimes even_times(const ScheduleShape& shape, double forward, double input_gradient,
                       double weight_gradient, double send) {
  const double v = shape.chunks;
  return {{forward / v}, {input_gradient / v}, {weight_gradient / v}, send};
}

Timeline timeline(const Schedule& schedule, const ActionTimes& times) {
  const int stages = virtual_stages(schedule.shape);
  for (const auto* list : {&times.forward, &times.input_gradient, &times.weight_gradient})
    require(list->size() == 1 || list->size() == std::size_t(stages), "timeline: ", list->size(),
            " times for ", stages, " virtual stages");
  return Clocks(schedule, times).run();
}

double bubble_formula(const ScheduleShape& shape, double forward, double input_gradient,
                      double weight_gradient) {
  const double up = shape.stages - 1, all = forward + input_gradient + weight_gradient;
  switch (shape.kind) {
    case ScheduleKind::gpipe:
    case ScheduleKind::one_f_one_b:
      return up * all;
    case ScheduleKind::interleaved:
      return up * all / shape.chunks;
    case ScheduleKind::zero_bubble_h1:
      // Fewer than p micro-batches have less deferred work to fill it with.
      return up * (forward + input_gradient) -
             (std::min(shape.stages, shape.micro_batches) - 1) * weight_gradient;
    case ScheduleKind::zero_bubble_v:
      return up * forward / 2;
  }
  return 0;
}

}  // namespace pf
