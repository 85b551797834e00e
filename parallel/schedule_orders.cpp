#include "parallel/schedule_orders.h"

#include <algorithm>

#include "core/error.h"

namespace pf {

using Kind = Action::Kind;

namespace {

double duration(Kind kind, const WorkTimes& times) {
  switch (kind) {
    case Kind::forward:
      return times.forward;
    case Kind::input_gradient:
      return times.input_gradient;
    case Kind::weight_gradient:
      return times.weight_gradient;
    default:
      return times.input_gradient + times.weight_gradient;
  }
}

// By virtual stage and micro-batch; below 0: not yet.
class Ends {
 public:
  explicit Ends(const ScheduleShape& shape)
      : micro_batches_(std::size_t(shape.micro_batches)),
        ends_(std::size_t(virtual_stages(shape)) * micro_batches_, -1) {}
  double& at(int stage, int micro_batch) {
    return ends_[std::size_t(stage) * micro_batches_ + std::size_t(micro_batch)];
  }

 private:
  std::size_t micro_batches_;
  std::vector<double> ends_;
};

}  // namespace

WorkOrder gpipe_order(const ScheduleShape& shape) {
  std::vector<Action> work;
  for (const Kind kind : {Kind::forward, Kind::backward})
    for (int i = 0; i < shape.micro_batches; ++i) work.push_back({kind, 0, i});
  return WorkOrder(std::size_t(shape.stages), work);
}

WorkOrder one_f_one_b_order(const ScheduleShape& shape) {
  WorkOrder order(std::size_t(shape.stages));
  const int m = shape.micro_batches;
  for (int rank = 0; rank < shape.stages; ++rank) {
    const int ahead = std::min(m, shape.stages - 1 - rank + shape.together - 1);
    auto& work = order[std::size_t(rank)];
    for (int i = 0; i < ahead; ++i) work.push_back({Kind::forward, 0, i});
    for (int i = 0; i < m; ++i) {
      if (i + ahead < m) work.push_back({Kind::forward, 0, i + ahead});
      work.push_back({Kind::backward, 0, i});
    }
  }
  return order;
}

// Chunks alternate every p micro-batches (Narayanan et al. 2021, section 2.2): p micro-batches
// through chunk 0, the same through chunk 1, and so on; backward from the last chunk.
WorkOrder interleaved_order(const ScheduleShape& shape) {
  const auto [kind, p, v, m, together] = shape;
  const auto nth = [p = p, v = v](Kind what, int i) {
    const int turn = i / p % v;
    return Action{what, what == Kind::forward ? turn : v - 1 - turn, i / (p * v) * p + i % p};
  };
  WorkOrder order;
  for (int rank = 0; rank < p; ++rank) {
    auto& work = order.emplace_back();
    const int all = m * v, ahead = std::min(all, interleaved_ahead(shape, rank));
    for (int i = 0; i < ahead; ++i) work.push_back(nth(Kind::forward, i));
    for (int i = 0; i < all; ++i) {
      if (i + ahead < all) work.push_back(nth(Kind::forward, i + ahead));
      work.push_back(nth(Kind::backward, i));
    }
  }
  return order;
}

// Of one chunk it is 1F1B.
int interleaved_ahead(const ScheduleShape& shape, int rank) {
  const int below = shape.stages - 1 - rank;
  return shape.chunks == 1 ? below : 2 * below + (shape.chunks - 1) * shape.stages;
}

// 1F1B whose weight gradients on rank r follow r micro-batches later, so that every rank holds p:
// gradients of inputs travel sooner, and weights fill the gaps at the end (Qi et al. 2024, ZB-H1).
WorkOrder zero_bubble_h1_order(const ScheduleShape& shape) {
  const int p = shape.stages, m = shape.micro_batches;
  WorkOrder order;
  for (int rank = 0; rank < p; ++rank) {
    auto& work = order.emplace_back();
    const int ahead = std::min(m, p - 1 - rank + shape.together - 1);
    for (int i = 0; i < ahead; ++i) work.push_back({Kind::forward, 0, i});
    for (int i = 0; i < m; ++i) {
      if (i + ahead < m) work.push_back({Kind::forward, 0, i + ahead});
      work.push_back({Kind::input_gradient, 0, i});
      if (i >= rank) work.push_back({Kind::weight_gradient, 0, i - rank});
    }
    for (int i = std::max(0, m - rank); i < m; ++i) work.push_back({Kind::weight_gradient, 0, i});
  }
  return order;
}

std::vector<std::vector<double>> work_ends(const ScheduleShape& shape, const WorkOrder& order,
                                           const WorkTimes& times) {
  std::vector<std::vector<double>> out(order.size());
  Ends forwards(shape), gradients(shape);
  // When its input from another virtual stage is there; below 0: not yet.
  const auto input = [&](const Action& a, int stage) {
    if (a.kind == Kind::forward) return stage == 0 ? 0 : forwards.at(stage - 1, a.micro_batch);
    if (a.kind == Kind::weight_gradient || stage + 1 == virtual_stages(shape)) return 0.0;
    return gradients.at(stage + 1, a.micro_batch);
  };
  const auto advance = [&](std::size_t rank) {
    if (out[rank].size() == order[rank].size()) return false;
    const Action& a = order[rank][out[rank].size()];
    const int stage = virtual_stage(shape, int(rank), a.chunk);
    const double from = input(a, stage);
    if (from < 0) return false;
    const double free = out[rank].empty() ? 0 : out[rank].back();
    const double end = std::max(free, from) + duration(a.kind, times);
    out[rank].push_back(end);
    if (a.kind == Kind::forward) {
      forwards.at(stage, a.micro_batch) = end;
    } else if (a.kind != Kind::weight_gradient) {
      gradients.at(stage, a.micro_batch) = end;
    }
    return true;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t rank = 0; rank < order.size(); ++rank)
      while (advance(rank)) moved = true;
  }
  for (std::size_t rank = 0; rank < order.size(); ++rank)
    require(out[rank].size() == order[rank].size(), "schedule: ", text(shape), ": work ",
            out[rank].size(), " of rank ", rank, " waits for ever");
  return out;
}

}  // namespace pf
