// What a layer is told beside its input.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "core/backend.h"
#include "parallel/mesh.h"

namespace pf {

// Sequences as they were sampled, one after the other: rows are tokens, [count * length] each.
struct Sequences {
  std::int64_t count = 0;
  std::int64_t first_sample = 0;  // global number of the first
  std::span<const std::int32_t> ids, targets;
  std::span<const std::uint8_t> counts = {};  // 1 where the target counts; empty: all do
  // Rows from which on a sequence does not see what is before, ascending: a document begins there.
  // The first row of a sequence may be missing.
  std::span<const std::int64_t> starts = {};
};

// Tokens [begin, end) of a micro-batch, sequence after sequence, which are the rows from `row` on.
struct RowRange {
  std::int64_t begin = 0, end = 0, row = 0;
  std::int64_t size() const { return end - begin; }

  friend bool operator==(const RowRange&, const RowRange&) = default;
};

// One micro-batch as this rank holds it. Tensors are constants: the same on the ranks of tp, cut by
// rows on cp and dp. Rows are tokens.
struct Batch {
  std::int64_t sequences = 0, length = 0;  // of the whole micro-batch
  Tensor ids;                              // [tokens] i32
  Tensor targets;                          // [tokens] i32
  Tensor mask;                             // [tokens] 1 where the target counts, accumulation type
  Tensor present;   // [tokens] 1 where there is a token, 0 in rows that only fill; like mask
  Tensor position;  // [tokens] i32, within the document
  Tensor token;     // [tokens] i64: global sample number * length + place in the sequence
  Tensor sequence;  // [tokens] i32: which of this micro-batch's sequences
  std::vector<Area> areas;              // in tokens of the whole micro-batch
  std::vector<RowRange> queries, keys;  // this rank's rows, and those of all ranks of cp
};

// All rows are present.
Batch make_batch(const Mesh& mesh, const Sequences& sampled, DType type);

class Balance;

// What micro-batch `micro_batch` of a step leaves behind, by slot, so that a second run overwrites.
struct Statistics {
  std::map<int, Tensor> chosen;  // by layer: routing, kept for a recompute
  // By layer, of this rank: choices of each expert [1, experts] by the tokens present (in
  // evaluation: by those whose target counts); of them those within the capacity, if there is one;
  // and, in evaluation, the sums of the chosen scores.
  std::map<int, Tensor> counts, kept, scores;
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
  double targets = 1;            // that count, in the whole global batch: divides the loss
  double tokens = 1;             // present in the whole global batch: divides auxiliary losses
  bool is_training = false;      // dropout, auxiliary losses
  bool wants_logits = false;     // the head gives [tokens, vocabulary] instead of a loss
  Balance* balance = nullptr;
  Statistics statistics;
};

}  // namespace pf
