// Rows to their experts and back.
#pragma once

#include "core/ops/routing.h"
#include "parallel/mesh.h"
#include "parallel/table.h"

namespace pf {

// How tokens meet the experts that other ranks hold.
//   all_to_all  each choice goes to the rank that holds its expert, and its result comes back: a
//               rank sends k T H (ep - 1) / ep numbers each way (T tokens of H, k choices each),
//               and with etp as much again over etp
//   all_gather  every rank of etp x ep sees all of their tokens and works on its experts' choices;
//               sums are scattered back: (etp ep - 1) T H each way, whatever was chosen. That is
//               less where ep < k
enum class Dispatcher : std::uint8_t { all_to_all, all_gather };

// Which tokens [tokens, k] go where, and how many of an expert's are kept (block 0: all).
struct Choices {
  Tensor chosen, weights;
  std::int64_t experts = 0;
  Capacity capacity = {};
};

// Rows as the experts of this rank see them, and what it takes to bring them back.
struct Dispatched {
  Dispatcher by = Dispatcher::all_to_all;
  ExpertRows rows;
  Tensor kept;  // [tokens, k] i32: this rank's choices, or -1: beyond the capacity
  // Of all_to_all: this rank's choices by expert; of all_gather: all ranks' choices of its experts.
  Plan order;
  Rows tokens;          // of all_gather: those of each rank of etp x ep
  Rows sent, received;  // of all_to_all: rows to and from each rank of ep
  Rows gathered;        // of all_to_all: rows of each rank of etp
  Plan by_expert;       // their order; empty where they are in it as they come
};

// On their way.
struct Sending {
  Dispatched there;
  Moving x, weights;
};

// Crosses to the expert view and sends the rows of x [tokens, hidden] to the ranks that hold the
// experts which they chose. One small exchange tells every rank what it receives. Until receive()
// others may work.
Sending send(const Tensor& x, const Choices& choices, Dispatcher by, const Mesh& mesh);

// Rows sorted by expert; of one expert, all_to_all has them by etp, then by ep rank that they came
// from, all_gather by ep, then by etp.
Dispatched receive(Sending sending, const Mesh& mesh);

// From the experts' outputs [rows, hidden], partial over etp, to the sums of each token's choices,
// [tokens, hidden].
Tensor bring_back(const Tensor& y, const Dispatched& there, const Mesh& mesh);

}  // namespace pf
