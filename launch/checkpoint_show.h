// What a checkpoint holds, in words.
#pragma once

#include <string>

#include "parallel/checkpoint_files.h"

namespace pf {

// Facts, parts, and its tensors, by kind and one by one.
std::string contents_text(const Checkpoint& checkpoint);

// The tensors that `pattern` names, with statistics of their values: a name, part of one, or with
// * ? [] as in file names. Throws Error if there are none. All parts were verified.
std::string values_text(const Checkpoint& checkpoint, const std::string& pattern);

}  // namespace pf
