// The parts of losses: all are sums over tokens, divided once by the global batch's token count.
#pragma once

#include "core/tape.h"

namespace pf {

// The largest logit of each row that this rank holds: [tokens], a constant; all_max() it where the
// vocabulary is cut.
Tensor row_max(const Tensor& logits);

// What a row's cross entropy needs of the columns that this rank holds, of the accumulation type:
//   exp_sum [tokens] = sum over columns of exp(logit - top)
//   picked  [tokens] = the target's logit, or 0 if its column is not here
// logits [tokens, vocabulary]; target [tokens] i32, whole-vocabulary numbers; `first` the first
// column here. Both are partial on the axes of `set` that cut columns. Backward keeps logits.
struct LossParts {
  Tensor exp_sum, picked;
};
LossParts loss_parts(const Tensor& logits, const Tensor& top, const Tensor& target,
                     std::int64_t first, const Axes& set);

// factor * sum over rows of mask * (log(exp_sum) + top - picked): a scalar, this rank's part of the
// sum over tokens. mask [tokens] of the accumulation type.
Tensor cross_entropy(const LossParts& parts, const Tensor& top, const Tensor& mask, double factor);

// [segments, columns]: sum over the tokens of a segment of mask * x, partial on the axes of `set`
// that cut tokens. segment [tokens] i32 or empty (one segment).
Tensor segment_sum(const Tensor& x, const Tensor& mask, const Tensor& segment,
                   std::int64_t segments, const Axes& set);

// factor * sum a * b, a scalar; b is a constant, which backward reads only when it runs: it may be
// written after this call, and then the scalar again by the backend's dot().
Tensor dot(const Tensor& a, const Tensor& b, double factor);

// Each row of a constant divided by its sum; a row of zeros stays.
Tensor normalise_rows(const Tensor& x);

// factor * sum over rows of mask * x^2: x [tokens], a scalar.
Tensor square_sum(const Tensor& x, const Tensor& mask, double factor);

}  // namespace pf
