// Low-rank changes of matrices that stay as they are: LoRA.
#pragma once

#include "core/parameter.h"

namespace pf {

// Products use W + scale B A in place of W (Hu et al. 2021, equation 3, where scale is alpha /
// rank):
//   W [out, in]            A [rank, in]            B [out, rank]
//   W [experts, out, in]   A [experts, rank, in]   B [experts, out, rank]
// A starts normal with std 1 / sqrt(in), so that x A' is as large as x, and B as zeros, so that the
// product starts as W's. Both have W's role. Where the ranks of an axis cut W's rows, they cut B's
// and all have A; where they cut W's columns, they cut A's and all have B; what holds W otherwise
// holds both so.
struct Adapter {
  // For Parameter::adapt(), which checks.
  Adapter(const Parameter& w, std::int64_t rank, double scale);

  Parameter a, b;  // W's name with .lora.a and .lora.b
  double scale;
};

Label label_of_a(const Label& w);
Label label_of_b(const Label& w);

// W + (scale B) A of an adapted parameter: a new tensor like W's value.
Tensor merged(const Parameter& w);

}  // namespace pf
