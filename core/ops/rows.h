// Ops on rows: embedding, normalisation, rotary positions.
#pragma once

#include <span>
#include <vector>

#include "core/parameter.h"
#include "core/tape.h"

namespace pf {

// y[r] = w[ids[r]] as `type`: ids [tokens] i32, w [vocabulary, dim]. Where w's rows are cut, a row
// is found on one rank and zero on the others: y is partial. Ids must be in [0, vocabulary), less
// `offset`, which is added to each.
Tensor embedding(const Tensor& ids, Parameter& w, DType type, std::int64_t offset = 0);

// y = x / rms(x) * w, where rms(x) = sqrt(mean(x^2) + eps), over each row (Zhang and Sennrich
// 2019).
//   x  [tokens, dim]   w  [dim]   y  like x
// Backward keeps x and one value per row. Throws if w's extent is not x's.
Tensor rms_norm(const Tensor& x, Parameter& w, double eps = 1e-5);
// The same over each head: x [tokens, heads * head_dim], of which the heads may be cut, w
// [head_dim].
Tensor rms_norm_by_head(const Tensor& x, Parameter& w, double eps = 1e-5);

// y = (x - mean) / sqrt(variance + eps) * w + b, row by row (Ba et al. 2016). x [tokens, dim], w
// and b [dim]. Backward keeps x and two values per row.
Tensor layer_norm(const Tensor& x, Parameter& w, Parameter& b, double eps = 1e-5);

// Each head of a followed by the same head of b, or by b's only one where all share it: a [tokens,
// heads * da], b [tokens, heads * db] or [tokens, db] -> [tokens, heads * (da + db)].
Tensor join_heads(const Tensor& a, const Tensor& b, std::int64_t heads, bool shares_b);

// Each of x's `heads` runs of columns `times` times in succession: x [tokens, heads * dim] ->
// [tokens, heads * times * dim].
Tensor repeat_heads(const Tensor& x, std::int64_t heads, std::int64_t times);

// The angular frequencies base^(-2 i / head_dim), i < head_dim / 2, stretched so that a model
// trained on `original` positions serves `factor` times as many.
//   linear       all divided by factor (Chen et al. 2023)
//   dynamic_ntk  a base that grows with the positions beyond `original` (bloc97 2023, as in the
//                Hugging Face library)
//   yarn         divided where fewer than `slow` turns fit into `original`, kept where more than
//                `fast` do, a ramp between (Peng et al. 2023, section 3.2)
//   llama3       the same with the ramp in turns instead of in i (Llama Team 2024, as published
//   with
//                Llama 3.1)
struct RopeScaling {
  enum class Kind : std::uint8_t { none, linear, dynamic_ntk, yarn, llama3 };
  Kind kind = Kind::none;
  double factor = 1;
  std::int64_t original = 0;
  double fast = 32, slow = 1;
};
std::vector<double> rope_frequencies(std::int64_t head_dim, double base, const RopeScaling& scaling,
                                     std::int64_t positions);

// cos and sin of position * frequency: [positions, head_dim], the cosines first; computed in f64,
// kept in `type`. A constant.
Tensor rope_table(std::int64_t positions, std::span<const double> frequencies, DType type,
                  Device& device);

// Turns each pair (c, c + head_dim / 2) of every head by the angle of its row's position (Su et al.
// 2021, equation 34). x [tokens, heads * head_dim], position [tokens] i32. Backward keeps neither x
// nor y.
Tensor rope(const Tensor& x, const Tensor& position, const Tensor& table);
// The same over x, which is gone: nothing else reads it, and the op that made it does not keep it
// for its backward, as products, biases and norms don't.
Tensor rope_in_place(const Tensor& x, const Tensor& position, const Tensor& table);

}  // namespace pf
