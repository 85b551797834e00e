// Products with weights.
#pragma once

#include <vector>

#include "core/parameter.h"
#include "core/tape.h"

namespace pf {

// y = x w' for each part of the pack: x [tokens, in], part i [out_i, in], result i [tokens, out_i].
// The results are columns of one matrix. Spreads on each axis, (x, w) ->
// y: (I, I) -> I, (R, R) -> R, (rows, R) -> rows, (P, R) -> P, (R, rows) -> columns, (columns,
// columns)
// -> P, (experts, experts) -> experts. Backward keeps x; weight gradients may be deferred, keeping
// dy.
std::vector<Tensor> linear(const Tensor& x, Pack& w);

// The one part of linear(swiglu(gate, up, row), w) without keeping the activation: backward keeps
// gate, up and row, and swiglu's backward makes the activation once more, where its gradient was.
Tensor linear_of_swiglu(const Tensor& gate, const Tensor& up, const Tensor& row, Pack& w);

// The weight work of linear() and grouped_linear(): adds to the gradients of the parts that are
// trained, and of adapters, without making those of W. dy [tokens, outputs of all parts]; counts:
// the rows of each expert, or the tokens.
void add_weight_gradients(const Tensor& x, const Tensor& dy, Pack& w,
                          const std::vector<std::int64_t>& counts);

// y = x + b in each row: x [tokens, out], b [out] as the outputs of a product are cut. Where the
// product's result is still partial, reduce it first.
Tensor add_bias(const Tensor& x, Parameter& b);

// Rows handed to experts: sorted by local expert, counts[e] rows of expert e. Made by dispatch
// alone.
struct ExpertRows {
  Tensor x;        // [rows, hidden]
  Tensor weights;  // [rows] routing weights, accumulation type
  std::vector<std::int64_t> counts;
};

// The same product for each expert's rows: part i [experts, out_i, in].
std::vector<Tensor> grouped_linear(const ExpertRows& rows, Pack& w);
// Of swiglu(gate, up, rows.weights), as linear_of_swiglu().
Tensor grouped_linear_of_swiglu(const ExpertRows& rows, const Tensor& gate, const Tensor& up,
                                Pack& w);

}  // namespace pf
