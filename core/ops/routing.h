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

// The order that sorts choices by expert, stable. All are constants.
struct Plan {
  Tensor order;   // [tokens * k] i32: sorted row -> choice (token * k + j)
  Tensor place;   // [tokens * k] i32: choice -> sorted row
  Tensor counts;  // [experts] i64
  std::int64_t k = 1;
};
Plan plan(const Tensor& chosen, std::int64_t experts);

// Rows in the plan's order: x [tokens, hidden] -> [tokens * k, hidden], weights [tokens, k] ->
// [tokens * k]. Backward sums each token's k rows. combine is its transpose: y[t] = sum of the k
// rows of t.
struct Permuted {
  Tensor x, weights;
};
Permuted permute(const Tensor& x, const Tensor& weights, const Plan& plan);
Tensor combine(const Tensor& rows, const Plan& plan);

// counts [segments, experts]: how many choices of valid tokens (mask [tokens] 1 or 0) went to each
// expert, by the token's segment [tokens] i32 (empty: one segment). A constant of the accumulation
// type, partial over the axes of `set` on which tokens are cut.
Tensor count_choices(const Tensor& chosen, const Tensor& mask, const Tensor& segment,
                     std::int64_t segments, std::int64_t experts, const Axes& set);

}  // namespace pf
