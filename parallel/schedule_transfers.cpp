#include <algorithm>
#include <optional>

#include "core/error.h"
#include "parallel/schedule_orders.h"

namespace pf {
namespace {

using Kind = Action::Kind;

// What work needs from, or makes for, another virtual stage.
struct Message {
  bool is_gradient;
  int stage;  // the virtual stage that makes it
  int micro_batch;
};

// Runs the work with sends that block, and writes down what happens in that order. Where all ranks
// wait, one of them receives early.
class Emitter {
 public:
  Emitter(const ScheduleShape& shape, const WorkOrder& order)
      : shape_(shape),
        order_(order),
        next_(order.size()),
        sending_(order.size()),
        clock_(order.size()),
        arrived_(2 * std::size_t(virtual_stages(shape)) * std::size_t(shape.micro_batches)),
        ends_(work_ends(shape, order, {})) {
    schedule_.shape = shape;
    schedule_.ranks.resize(order.size());
  }

  Schedule run() {
    while (!is_done()) {
      bool moved = false;
      for (int rank = 0; rank < shape_.stages; ++rank)
        while (advance(rank)) moved = true;
      if (!moved) receive_early();
    }
    return std::move(schedule_);
  }

 private:
  std::size_t slot(const Message& t) const {
    return (std::size_t(t.is_gradient) * std::size_t(virtual_stages(shape_)) +
            std::size_t(t.stage)) *
               std::size_t(shape_.micro_batches) +
           std::size_t(t.micro_batch);
  }
  const Action* next_work(int rank) const {
    const auto& work = order_[std::size_t(rank)];
    const std::size_t i = next_[std::size_t(rank)];
    return i < work.size() ? &work[i] : nullptr;
  }
  std::optional<Message> input(int rank, const Action& a) const {
    const int stage = virtual_stage(shape_, rank, a.chunk);
    if (a.kind == Kind::forward && stage > 0) return Message{false, stage - 1, a.micro_batch};
    if ((a.kind == Kind::backward || a.kind == Kind::input_gradient) &&
        stage + 1 < virtual_stages(shape_))
      return Message{true, stage + 1, a.micro_batch};
    return {};
  }
  // Where the tensor is needed; -1: nowhere.
  int taker(const Message& t) const {
    const int stage = t.stage + (t.is_gradient ? -1 : 1);
    return stage < 0 || stage == virtual_stages(shape_) ? -1 : rank_of(shape_, stage);
  }
  std::optional<Message> output(int rank, const Action& a) const {
    if (a.kind == Kind::weight_gradient) return {};
    return Message{a.kind != Kind::forward, virtual_stage(shape_, rank, a.chunk), a.micro_batch};
  }
  bool is_done() const {
    for (int rank = 0; rank < shape_.stages; ++rank)
      if (next_work(rank) || sending_[std::size_t(rank)]) return false;
    return true;
  }

  bool waits_for(int rank, const Message& t) const {
    const Action* a = next_work(rank);
    const auto in = a ? input(rank, *a) : std::nullopt;
    return in && slot(*in) == slot(t);
  }

  bool advance(int rank) {
    auto& sending = sending_[std::size_t(rank)];
    if (sending) {
      const int to = taker(*sending);
      if (sending_[std::size_t(to)] || !waits_for(to, *sending)) return false;
      transfer(rank);
      return true;
    }
    const Action* a = next_work(rank);
    if (!a) return false;
    if (const auto in = input(rank, *a)) {
      const bool is_here = rank_of(shape_, in->stage) == rank;
      if (!arrived_[slot(*in)] && !is_here) return false;
    }
    schedule_.ranks[std::size_t(rank)].push_back(*a);
    clock_[std::size_t(rank)] = ends_[std::size_t(rank)][next_[std::size_t(rank)]++];
    const auto out = output(rank, *a);
    if (out && taker(*out) >= 0 && taker(*out) != rank) sending = out;
    return true;
  }

  void transfer(int rank) {
    const Message t = *sending_[std::size_t(rank)];
    const int to = taker(t), stage = t.stage + (t.is_gradient ? -1 : 1);
    schedule_.ranks[std::size_t(rank)].push_back(
        {t.is_gradient ? Kind::send_backward : Kind::send_forward, chunk_of(shape_, t.stage),
         t.micro_batch});
    schedule_.ranks[std::size_t(to)].push_back(
        {t.is_gradient ? Kind::receive_backward : Kind::receive_forward, chunk_of(shape_, stage),
         t.micro_batch});
    arrived_[slot(t)] = true;
    sending_[std::size_t(rank)].reset();
  }

  // The one that its receiver waits for least; of several the one that it needs at once.
  void receive_early() {
    int best = -1;
    std::pair<double, bool> least;
    for (int rank = 0; rank < shape_.stages; ++rank) {
      const auto& sending = sending_[std::size_t(rank)];
      if (!sending) continue;
      const int to = taker(*sending);
      const double wait = std::max(0.0, clock_[std::size_t(rank)] - clock_[std::size_t(to)]);
      const std::pair key(wait, !waits_for(to, *sending));
      if (best < 0 || key < least) best = rank, least = key;
    }
    require(best >= 0, "schedule: nobody sends: the orders of work wait for each other");
    transfer(best);
  }

  ScheduleShape shape_;
  const WorkOrder& order_;
  std::vector<std::size_t> next_;
  std::vector<std::optional<Message>> sending_;
  std::vector<double> clock_;  // the end of the last work, if sends took no time
  std::vector<bool> arrived_;
  std::vector<std::vector<double>> ends_;
  Schedule schedule_;
};

}  // namespace

Schedule with_transfers(const ScheduleShape& shape, const WorkOrder& order) {
  return Emitter(shape, order).run();
}

}  // namespace pf
