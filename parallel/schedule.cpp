#include "parallel/schedule.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "parallel/schedule_orders.h"

namespace pf {
namespace {

using Kind = Action::Kind;

constexpr std::array<const char*, 5> kind_words{"gpipe", "1f1b", "interleaved", "zbh1", "zbv"};
constexpr std::array<const char*, 8> action_names{
    "forward",      "backward",        "input_gradient", "weight_gradient",
    "send_forward", "receive_forward", "send_backward",  "receive_backward"};

WorkOrder work_order(const ScheduleShape& shape) {
  switch (shape.kind) {
    case ScheduleKind::gpipe:
      return gpipe_order(shape);
    case ScheduleKind::one_f_one_b:
      return one_f_one_b_order(shape);
    case ScheduleKind::interleaved:
      return interleaved_order(shape);
    case ScheduleKind::zero_bubble_h1:
      return zero_bubble_h1_order(shape);
    case ScheduleKind::zero_bubble_v:
      return zero_bubble_v_order(shape);
  }
  return {};
}

}  // namespace

ScheduleKind schedule_kind(std::string_view word) {
  const auto found = std::ranges::find(kind_words, word);
  require(found != kind_words.end(), "schedule: '", word,
          "' is not one of gpipe, 1f1b, interleaved, zbh1, zbv");
  return ScheduleKind(found - kind_words.begin());
}

const char* name(ScheduleKind kind) {
  return kind_words[std::size_t(kind)];
}

bool defers_weights(ScheduleKind kind) {
  return kind == ScheduleKind::zero_bubble_h1 || kind == ScheduleKind::zero_bubble_v;
}

const char* name(Action::Kind kind) {
  return action_names[std::size_t(kind)];
}

std::string text(const Action& action) {
  return std::string(name(action.kind)) + ' ' + std::to_string(action.chunk) + '.' +
         std::to_string(action.micro_batch);
}

bool is_send(Action::Kind kind) {
  return kind == Kind::send_forward || kind == Kind::send_backward;
}

bool is_receive(Action::Kind kind) {
  return kind == Kind::receive_forward || kind == Kind::receive_backward;
}

bool is_work(Action::Kind kind) {
  return !is_send(kind) && !is_receive(kind);
}

std::string text(const ScheduleShape& shape) {
  const auto count = [](int n, const char* what) {
    return std::to_string(n) + ' ' + what + (n == 1 ? "" : "s");
  };
  return std::string(name(shape.kind)) + " of " + count(shape.stages, "stage") +
         (shape.chunks == 1 ? "" : " x " + count(shape.chunks, "chunk")) + ", " +
         std::to_string(shape.micro_batches) +
         (shape.micro_batches == 1 ? " micro-batch" : " micro-batches");
}

int virtual_stages(const ScheduleShape& shape) {
  return shape.stages * shape.chunks;
}

int virtual_stage(const ScheduleShape& shape, int rank, int chunk) {
  if (shape.kind == ScheduleKind::zero_bubble_v && chunk == 1) return 2 * shape.stages - 1 - rank;
  return chunk * shape.stages + rank;
}

int rank_of(const ScheduleShape& shape, int virtual_stage) {
  const int rank = virtual_stage % shape.stages;
  const bool goes_up = shape.kind == ScheduleKind::zero_bubble_v && virtual_stage >= shape.stages;
  return goes_up ? shape.stages - 1 - rank : rank;
}

int chunk_of(const ScheduleShape& shape, int virtual_stage) {
  return virtual_stage / shape.stages;
}

std::string impossibility(const ScheduleShape& shape) {
  const auto [kind, p, v, m, together] = shape;
  const auto number = [](int n) { return std::to_string(n); };
  if (std::min({p, v, m, together}) < 1) return text(shape) + "; all must be 1 or more";
  const std::string word = name(kind);
  if (kind == ScheduleKind::zero_bubble_v && v != 2)
    return word + " has 2 chunks on each rank, one on the way down and one on the way up, not " +
           number(v);
  const bool has_chunks = kind == ScheduleKind::interleaved || kind == ScheduleKind::zero_bubble_v;
  if (!has_chunks && v != 1)
    return word + " has 1 chunk on each rank, not " + number(v) + "; interleaved and zbv have more";
  if (kind == ScheduleKind::interleaved && m % p != 0)
    return word + " needs a multiple of the " + number(p) +
           " stages as its number of micro-batches, not " + number(m);
  return "";
}

Schedule make_schedule(const ScheduleShape& shape) {
  const std::string wrong = impossibility(shape);
  require(wrong.empty(), "schedule: ", wrong);
  return with_transfers(shape, work_order(shape));
}

int peer(const ScheduleShape& shape, int rank, const Action& action) {
  require(!is_work(action.kind), "schedule: ", text(action), " has no other end");
  const bool up = action.kind == Kind::send_forward || action.kind == Kind::receive_backward;
  const int stage = virtual_stage(shape, rank, action.chunk) + (up ? 1 : -1);
  require(stage >= 0 && stage < virtual_stages(shape), "schedule: ", text(action), " on rank ",
          rank, " has no other end");
  return rank_of(shape, stage);
}

int in_flight(const Schedule& schedule, int rank) {
  int now = 0, most = 0;
  for (const Action& a : schedule.ranks.at(std::size_t(rank))) {
    if (a.kind == Kind::forward) most = std::max(most, ++now);
    if (a.kind == Kind::backward || a.kind == Kind::weight_gradient) --now;
  }
  return most;
}

int in_flight_bound(const ScheduleShape& shape, int rank) {
  const auto [kind, p, v, m, together] = shape;
  switch (kind) {
    case ScheduleKind::gpipe:
      return m;
    case ScheduleKind::one_f_one_b:
      return std::min(m, p - rank + together - 1);
    case ScheduleKind::interleaved:
      return std::min(m * v, interleaved_ahead(shape, rank) + 1);
    case ScheduleKind::zero_bubble_h1:
      return std::min(m, p + together - 1);
    case ScheduleKind::zero_bubble_v:
      return 2 * std::min(m, p);
  }
  return 0;
}

}  // namespace pf
