// What a layer is told beside its input.
#pragma once

#include <map>
#include <vector>

#include "core/backend.h"
#include "parallel/mesh.h"

namespace pf {

// Tokens [begin, end) of a micro-batch, sequence after sequence, which are the rows from `row` on.
struct TokenRange {
  std::int64_t begin = 0, end = 0, row = 0;
  std::int64_t size() const { return end - begin; }

  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

// One micro-batch as this rank holds it. Tensors are constants: the same on the ranks of tp, cut by
// rows on cp and dp. Rows are tokens.
struct Batch {
  std::int64_t sequences = 0, length = 0;  // of the whole micro-batch
  Tensor ids;                              // [tokens] i32
  Tensor targets;                          // [tokens] i32
  Tensor mask;                             // [tokens] 1 where the target counts, accumulation type
  Tensor position;                         // [tokens] i32, within the sequence
  Tensor token;                            // [tokens] i64: global sample number * length + position
  Tensor sequence;                         // [tokens] i32: which of this micro-batch's sequences
  std::vector<Area> areas;                 // in tokens of the whole micro-batch
  std::vector<TokenRange> queries, keys;   // this rank's rows, and those of all ranks of cp
};

// Makes the parts of a batch that follow from the sampled ids: `ids` and `targets` [sequences *
// length], `first_sample` the global number of the first sequence. Everything counts.
Batch make_batch(const Mesh& mesh, std::span<const std::int32_t> ids,
                 std::span<const std::int32_t> targets, std::int64_t sequences,
                 std::int64_t first_sample, DType type);

class Balance;

// What micro-batch `micro_batch` of a step leaves behind, by slot, so that a second run overwrites.
struct Statistics {
  std::map<int, Tensor> chosen;  // by layer: routing, kept for a recompute
  std::map<int, Tensor> counts;  // by layer: choices of each expert [1, experts] of this rank
  std::map<int, Tensor> losses;  // by chunk of the head: this rank's part of the loss
  // By layer; the second is the micro part of mixed.
  std::map<int, Tensor> balance_losses, second_balance_losses, z_losses;
};

struct Context {
  const Mesh* mesh = nullptr;
  Batch batch;
  DType type = DType::f32;  // of activations
  std::uint64_t seed = 0;   // of dropout
  std::int64_t step = 0;
  std::int64_t micro_batch = 0;  // number in the global batch
  double tokens = 1;             // that count, in the whole global batch: divides every loss
  bool is_training = false;      // dropout, auxiliary losses
  bool wants_logits = false;     // the head gives [tokens, vocabulary] instead of a loss
  Balance* balance = nullptr;
  Statistics statistics;
};

}  // namespace pf
