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
  // Of one expert, of so many tokens: the most choices, or with padding all rows.
  std::int64_t rows(std::int64_t tokens, std::int64_t k, std::int64_t experts) const {
    return choices(k, experts) * (tokens / block);
  }
};
// chosen [tokens, k], but -1 where a choice is dropped: the weights [tokens, k] decide. tokens must
// be whole blocks.
Tensor kept_choices(const Tensor& chosen, const Tensor& weights, std::int64_t experts,
                    const Capacity& capacity);
// Of choices [tokens, k], those of the `count` experts from `first` on, numbered from 0, and -1 for
// the others: this rank's part, as `index` says, which is mesh.index().
Tensor choices_of(const Tensor& chosen, const Tensor& index, std::int64_t first,
                  std::int64_t count);

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
// Leaves out choices that are -1. With `padded` > 0 each expert has as many rows; else meta takes
// it that `expected` are left.
Plan plan_kept(const Tensor& kept, std::int64_t experts, std::int64_t expected,
               std::int64_t padded = 0);
// Of what the capacity keeps. Dropped choices do not change the others' weights.
Plan plan(const Tensor& chosen, const Tensor& weights, std::int64_t experts,
          const Capacity& capacity);

// Rows in the plan's order: x [tokens, hidden] -> [rows, hidden], weights [tokens, k] -> [rows].
// Where k is 1, weights may be [tokens].
// Backward sums each token's rows. combine is its transpose: y[t] = sum of the rows of t. On the
// axes of `summed`, the plan and the rows are of each rank's experts: there x and weights are
// replicated, and y is partial.
struct Permuted {
  Tensor x, weights;
};
Permuted permute(const Tensor& x, const Tensor& weights, const Plan& plan);
Tensor combine(const Tensor& rows, const Plan& plan, const Axes& summed = {});

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
