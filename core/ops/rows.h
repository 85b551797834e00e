// Ops on rows: embedding, normalisation, rotary positions.
#pragma once

#include "core/parameter.h"
#include "core/tape.h"

namespace pf {

// y[r] = w[ids[r]] as `type`: ids [tokens] i32, w [vocabulary, dim]. Where w's rows are cut, a row
// is found on one rank and zero on the others: y is partial. Ids must be in [0, vocabulary).
Tensor embedding(const Tensor& ids, Parameter& w, DType type);

// y = x / rms(x) * w, where rms(x) = sqrt(mean(x^2) + eps), over each run of w.size() columns: the
// row, or each head of it (Zhang and Sennrich 2019).
//   x  [tokens, dim]   w  [dim] or [head_dim]   y  like x
// Backward keeps x and one value per run. Throws if w's extent does not divide x's.
Tensor rms_norm(const Tensor& x, Parameter& w, double eps = 1e-5);

// cos and sin of position * base^(-2 i / head_dim): [positions, head_dim], the cosines first;
// computed in f64, kept in `type`. A constant.
Tensor rope_table(std::int64_t positions, std::int64_t head_dim, double base, DType type,
                  Device& device);

// Turns each pair (c, c + head_dim / 2) of every head by the angle of its row's position (Su et al.
// 2021, equation 34). x [tokens, heads * head_dim], position [tokens] i32. Backward keeps neither x
// nor y.
Tensor rope(const Tensor& x, const Tensor& position, const Tensor& table);

}  // namespace pf
