// Attention of this rank's queries over keys that travel from rank to rank.
#pragma once

#include <vector>

#include "core/backend.h"
#include "core/tape.h"
#include "parallel/mesh.h"

namespace pf {

// y = attention(q, the keys of all ranks of `set`) as core/ops/attention.h has it, without ever
// holding more than two ranks' keys and values beside its own (Liu et al. 2023). On `set` q, k and
// v are rows, as many on each rank.
//   q [tokens, heads * head_dim]   k [tokens, kv_heads * head_dim]
//   v [tokens, kv_heads * value_dim]   y [tokens, heads * value_dim]
// areas[i]: rows of this rank's queries and of the i-th rank's keys; where they are none, nothing
// is computed. While one rank's keys are worked on, they travel on: each rank sends n - 1 times
// what it holds. Backward sends that again, and as many times gradients of keys and values in the
// accumulation type. Results are merged in that type, in an order that the ranks' places give.
// Backward keeps q, k, v, y and one value per row and head.
//
// With `neighbours` above 1 there are two levels (Fang and Zhao 2024): so many consecutive ranks,
// a divisor of all ranks, of heads and of kv_heads, exchange rows for heads (Jacobs et al. 2023),
// and each then is in a ring with its likes of the other neighbourhoods. areas[i] are of the rows
// of this neighbourhood's queries and of the i-th one's keys.
Tensor ring_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                      std::vector<std::vector<Area>> areas, const AttentionShape& shape,
                      const Mesh& mesh, const Axes& set, int neighbours = 1);

}  // namespace pf
