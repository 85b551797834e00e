// Attention over areas.
#pragma once

#include <span>
#include <vector>

#include "core/backend.h"
#include "core/tape.h"

namespace pf {

// y = softmax(scale q k' over what `areas` let each query see) v, head by head, without ever
// holding a matrix of all scores (Dao 2023, algorithms 1 and 2).
//   q [tokens, heads * head_dim]   k [keys, kv_heads * head_dim]
//   v [keys, kv_heads * value_dim]   y [tokens, heads * value_dim]
// Query head h uses KV head h / (heads / kv_heads). What a query sees is the union of its areas,
// which must be disjoint; one that sees nothing gives zeros. On each axis q and k may be (I, I),
// (R, R), (rows, R), (columns, R), (columns, columns), (rows, others), and on dp (rows, rows): its
// ranks hold whole sequences. Backward keeps q, k, v, y and one value per row and head.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, std::vector<Area> areas,
                 const AttentionShape& shape);

// What attention() is made of, for ops that see keys part by part. Throws Error unless q, k, v and
// the areas fit each other and the shape.
void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, std::span<const Area> areas,
                     const AttentionShape& shape);
// The kernels of core/backend.h, with their workspaces. They count 2 FLOPs for each pair and column
// of a score and of a weighted sum, and twice that backward: making scores again is the kernel's
// own.
void attention_into(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                    const Tensor& v, std::span<const Area> areas, const AttentionShape& shape);
void attention_backward_into(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dy,
                             const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                             const Tensor& v, std::span<const Area> areas,
                             const AttentionShape& shape);

// Pairs of a query and a key that it sees.
double pairs_of(std::span<const Area> areas);

// Each of `sequences` runs of `length` rows sees itself, causally.
std::vector<Area> causal_areas(std::int64_t sequences, std::int64_t length);

// Of what these causal areas let a query see, the last `window` keys (Beltagy et al. 2020).
std::vector<Area> within_window(std::span<const Area> areas, std::int64_t window);

}  // namespace pf
