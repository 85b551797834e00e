// Random layouts of one file's model.
#pragma once

#include <string>
#include <vector>

#include "launch/prove_search.h"

namespace pf {

// The file gives the model, the length of sequences, what is trained and the optimizer's settings.
// Each case draws ranks (2 to 8), tp, cp, etp, ep, cp_method, dispatcher, zero and zero_shard,
// micro_batch and global_batch, recompute, whether documents see each other, and the seed of
// weights and tokens; balance.group is dp, unless the file gives it. What an override gives stays.
// Throws Error like file_to_prove(), and of a case for which no draw is legal.
Cases cases_of_file(const std::string& path, const std::vector<std::string>& overrides,
                    std::uint64_t seed);

}  // namespace pf
