// Attention of a rank's queries over the keys of all ranks of cp.
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "core/tensor.h"
#include "models/context.h"

namespace pf {

// How queries meet the keys of other ranks.
//   ring        keys and values travel from rank to rank (Liu et al. 2023)
//   all_gather  every rank gets them all (Llama Team 2024, section 3.3.2)
//   ulysses     each rank gets all tokens of some heads, and gives the results back (Jacobs et al.
//               2023)
//   two_level   ulysses among neighbours, a ring over their groups (Fang and Zhao 2024)
enum class CpMethod : std::uint8_t { ring, all_gather, ulysses, two_level };

// Each query sees what the micro-batch says, and of it the last `window` keys if that is not 0; all
// methods give the same.
//   q [tokens / cp, heads * head_dim]   k [tokens / cp, kv_heads * head_dim]
//   v [tokens / cp, kv_heads * value_dim], all of them rows on cp
// Throws Error where heads can't be divided as the method wants: heads_fit().
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              std::int64_t window, CpMethod method, const Context& context);

// Whether `ranks` can divide a rank's heads: they divide `heads`, and each needs whole KV heads or
// a part of the queries of one.
bool heads_fit(std::int64_t heads, std::int64_t kv_heads, std::int64_t ranks);

// How many ranks of cp divide heads where others are in a ring: the largest divisor of `ranks`
// below it that divides `heads` and `kv_heads`; 1: there is none, and one level is left.
std::int64_t two_level_neighbours(std::int64_t heads, std::int64_t kv_heads, std::int64_t ranks);

}  // namespace pf
