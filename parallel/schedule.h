// Pipeline schedules as data: what each stage's rank does in a step, one thing after the other.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pf {

// gpipe, one_f_one_b: Huang et al. 2019, Narayanan et al. 2019; interleaved: Narayanan et al. 2021;
// zero_bubble_h1, zero_bubble_v: Qi et al. 2024, which put off the gradients of weights.
enum class ScheduleKind : std::uint8_t {
  gpipe,
  one_f_one_b,
  interleaved,
  zero_bubble_h1,
  zero_bubble_v
};

// The words of configurations: gpipe, 1f1b, interleaved, zbh1, zbv. Throws Error on others.
ScheduleKind schedule_kind(std::string_view word);
const char* name(ScheduleKind kind);
bool defers_weights(ScheduleKind kind);  // input_gradient and weight_gradient instead of backward

// One thing a rank does, for one of its chunks and one micro-batch.
struct Action {
  enum class Kind : std::uint8_t {
    forward,
    backward,         // gradients of input and weights at once
    input_gradient,   // of the input alone
    weight_gradient,  // the rest of it
    send_forward,     // activations to the next virtual stage
    receive_forward,  // activations from the one before
    send_backward,    // gradients to the virtual stage before
    receive_backward  // gradients from the next one
  };
  Kind kind = Kind::forward;
  int chunk = 0;  // this rank's: a sender and its receiver each name their own
  int micro_batch = 0;
  friend bool operator==(const Action&, const Action&) = default;
};

const char* name(Action::Kind kind);
std::string text(const Action& action);  // "forward 1.3": chunk 1, micro-batch 3
bool is_send(Action::Kind kind);
bool is_receive(Action::Kind kind);
bool is_work(Action::Kind kind);  // neither

struct ScheduleShape {
  ScheduleKind kind = ScheduleKind::one_f_one_b;
  int stages = 1;         // p
  int chunks = 1;         // v, on each rank
  int micro_batches = 1;  // m
  // A micro-batch goes back after `together` - 1 more of the same chunk went forward than the kind
  // wants (1f1b and zbh1 run so many further ahead).
  int together = 1;
};
std::string text(const ScheduleShape& shape);  // "zbv of 4 stages x 2 chunks, 8 micro-batches"
// Why the kind does not have this shape, with the rule and its numbers; empty if it has.
std::string impossibility(const ScheduleShape& shape);

// The model is cut into stages x chunks virtual stages in the order of its layers. Interleaved ones
// go round the ranks (chunk x p + rank), those of zero_bubble_v down and up again (rank, then
// 2p - 1 - rank).
int virtual_stages(const ScheduleShape& shape);
int virtual_stage(const ScheduleShape& shape, int rank, int chunk);
int rank_of(const ScheduleShape& shape, int virtual_stage);
int chunk_of(const ScheduleShape& shape, int virtual_stage);

struct Schedule {
  ScheduleShape shape;
  std::vector<std::vector<Action>> ranks;  // by stage rank
};

// Work is in the order that the kind prescribes, micro-batches ascending for each chunk and kind of
// work. A send stands right behind the work that makes the tensor; a receive before the work that
// takes it, and as late as is possible if sends block until they are received (rendezvous). Where
// they don't, a receive is best begun where it stands and waited for by that work. Between two
// chunks of one rank nothing is sent.
// Throws Error for a shape that the kind does not have.
Schedule make_schedule(const ScheduleShape& shape);

// The rank at the other end of what `rank` sends or receives.
int peer(const ScheduleShape& shape, int rank, const Action& action);

// The most that a rank holds at once, in micro-batches of one chunk, from the begin of a forward to
// the end of its last backward work, put off or not; and what the kind allows.
int in_flight(const Schedule& schedule, int rank);
int in_flight_bound(const ScheduleShape& shape, int rank);

// Throws Error unless each micro-batch goes forward, then backward, once through every chunk, what
// is sent is received in the same order between any two ranks, no rank holds more than its bound,
// and nothing waits for itself, also if sends block until they are received.
void check(const Schedule& schedule);

}  // namespace pf
