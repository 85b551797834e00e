// All tensors that training goes on from, and how a checkpoint takes and gives them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "parallel/checkpoint_files.h"

namespace pf {

// Elements [begin, end) of this rank's block of a whole tensor, row-major.
struct StateTensor {
  std::string name;  // "weights/head.weight", "optimizer/first_moment/head.weight"
  Parameter* parameter = nullptr;
  std::int64_t begin = 0, end = 0;
  StoredState state;        // [end - begin], or like the block
  bool is_written = false;  // by this rank: of those that hold the same elements, one writes them
};

// Weights, frozen ones (biases of routers too) and what the optimizer, if there is one, keeps: of
// each element what this rank changes, or reads anew. All layers are there; valid until the next
// step. `gradients`, `optimizer` and `visit` are of the same model.
std::vector<StateTensor> training_state(const Mesh& mesh, const Gradients& gradients,
                                        const Optimizer* optimizer, const Visit& visit);

// Of what this rank writes: the tensors themselves (of states in a file, copies), or, with
// `copies`, which are empty at first and used again later, copies of all. Throws Error where there
// is no memory for them.
std::vector<SavedPiece> pieces_of(std::span<const StateTensor> state,
                                  std::vector<Tensor>* copies = nullptr);
std::int64_t written_bytes(std::span<const StateTensor> state);

// Reads each from a verified checkpoint of any layout; Gradients::share_values() comes next. Throws
// Error naming a tensor that is not there or is not alike.
void read_state(const Checkpoint& checkpoint, std::span<const StateTensor> state);

}  // namespace pf
