// Which expert gets which token, and moving rows there and back.
#pragma once

#include "core/backend.h"
#include "core/ops/linear.h"
#include "core/tape.h"

namespace pf {

// Where tokens go. From logits [tokens, experts] of the accumulation type:
struct Routed {
  Tensor scores;   // [tokens, experts], which sum to 1 over all experts
  Tensor weights;  // [tokens, k] of the chosen ones
  Tensor lse;      // [tokens] log of the sum of exponentials, for the z loss
  Tensor chosen;   // [tokens, k] i32, ascending; a constant
};

// The k best per token (ties: the lower number), as `router` says. `decided`, if given, is a choice
// made before, which is kept: a recompute must not route differently. Backward keeps scores,
// weights and chosen; of sigmoids, the logits too.
Routed route(const Tensor& logits, std::int64_t k, const Router& router,
             const Tensor& decided = {});

// A choice that is even whatever the logits are, for benchmarks: token number t [tokens] i64 goes
// to the experts t k + 0 ... k-1, modulo their number. [tokens, k] i32, a constant.
Tensor forced_choice(const Tensor& token, std::int64_t k, std::int64_t experts);

// How many choices of an expert are kept in each run of `block` rows: those of the largest weights
// (Lepikhin et al. 2021, counted by blocks, so that the model does not depend on the layout).
struct Capacity {
  std::int64_t block = 0;  // 0: all choices are kept
  double factor = 1;       // of an even share
  bool pads = false;       // with rows of weight 0, so that no shape depends on values

  // ceil(factor * block * k / experts)
  std::int64_t choices(std::int64_t k, std::int64_t experts) const;
};

// The order that sorts choices by expert, stable. All are constants. `rows` is tokens * k, or fewer
// where choices are dropped, or more where they are padded.
struct Plan {
  Tensor order;   // [rows] i32: sorted row -> choice (token * k + j), or -1: padding
  Tensor place;   // [tokens * k] i32: choice -> sorted row, or -1: dropped
  Tensor counts;  // [experts] i64
  Tensor kept;    // [tokens, k] i32: chosen, or -1: dropped
  std::int64_t k = 1;
};
Plan plan(const Tensor& chosen, std::int64_t experts);
// With the weights [tokens, k] of the choices, which decide what is dropped. tokens must be whole
// blocks. Dropped choices do not change the others' weights.
Plan plan(const Tensor& chosen, const Tensor& weights, std::int64_t experts,
          const Capacity& capacity);

// Rows in the plan's order: x [tokens, hidden] -> [rows, hidden], weights [tokens, k] -> [rows].
// Where k is 1, weights may be [tokens].
// Backward sums each token's rows. combine is its transpose: y[t] = sum of the rows of t.
struct Permuted {
  Tensor x, weights;
};
Permuted permute(const Tensor& x, const Tensor& weights, const Plan& plan);
Tensor combine(const Tensor& rows, const Plan& plan);

// counts [segments, experts]: how many choices of valid tokens (mask [tokens] 1 or 0) went to each
// expert, by the token's segment [tokens] i32 (empty: one segment); those of -1 to none. A constant
// of the accumulation type, partial over the axes of `set` on which tokens are cut.
Tensor count_choices(const Tensor& chosen, const Tensor& mask, const Tensor& segment,
                     std::int64_t segments, std::int64_t experts, const Axes& set);

// [1, experts]: the sum over the valid tokens that chose an expert of its scores [tokens, experts].
// A constant like the above.
Tensor sum_of_chosen(const Tensor& scores, const Tensor& chosen, const Tensor& mask,
                     const Axes& set);

}  // namespace pf
