// Ops that work element by element, and casts.
#pragma once

#include "core/backend.h"
#include "core/philox.h"
#include "core/tape.h"

namespace pf {

// The sum of two or three tensors of one shape and type. Partial sums may be added to partial sums.
Tensor add(const Tensor& a, const Tensor& b);
Tensor add(const Tensor& a, const Tensor& b, const Tensor& c);

Tensor scale(const Tensor& x, double factor);

// x in another floating type; its gradient comes back in x's.
Tensor cast(const Tensor& x, DType type);

// x in runs of `rows` rows, the last one shorter: views of x. Backward joins their gradients.
std::vector<Tensor> split_rows(const Tensor& x, std::int64_t rows);

// silu(gate) * up, and * row where given: gate, up [tokens, ffn], row [tokens] of the accumulation
// type (Shazeer 2020). Multiplying by the routing weight here saves keeping the experts' outputs.
// Backward keeps all three.
Tensor swiglu(const Tensor& gate, const Tensor& up, const Tensor& row = {});

// Where the gradients of gate and up go: side by side, so that the gradient of one product that
// made both is one matrix; over gate and up themselves, if they lie so and only the two of them
// share their storage.
struct GateUp {
  Tensor gate, up;
};
GateUp gradients_of_gate_up(const Tensor& gate, const Tensor& up);

// Element by element; backward keeps x.
Tensor activation(const Tensor& x, ActivationKind kind);

// Zeroes with probability p and scales the rest by 1 / (1 - p). token [tokens] i64 is each row's
// global number (sample * sequence + position); `width` the whole row's width, of which x is the
// columns from `first_column`. Any layout and a recompute draw the same numbers. Backward keeps
// token.
Tensor dropout(const Tensor& x, double p, const Random& random, const Tensor& token,
               std::int64_t width, std::int64_t first_column = 0);

}  // namespace pf
