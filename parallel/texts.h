// Texts of ranks, for reports and decisions: not on the hot path.
#pragma once

#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace pf {

// Each rank's text, in order, on rank 0; nothing elsewhere. All ranks call, with the same `kind`.
std::vector<std::string> gather_texts(Communicator& communicator, const char* kind,
                                      const std::string& own);

// Rank 0's text, on all ranks. All ranks call.
std::string share_text(Communicator& communicator, const char* kind, const std::string& of_first);

}  // namespace pf
