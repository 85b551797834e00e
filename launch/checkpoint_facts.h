// A checkpoint beside its tensors: where it is, and what it says of the run, in words.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "parallel/checkpoint_files.h"

namespace pf {

// The folders of checkpoints of a run, or in a folder, oldest first, whole or not; `path` alone if
// it is a checkpoint itself. Throws Error if there are none.
std::vector<std::string> checkpoints_at(const std::string& path);
// `path` if it is a checkpoint's folder, else the newest one of checkpoints_at(path).
std::string checkpoint_at(const std::string& path);

// Of all its files.
std::int64_t bytes_of(const Checkpoint& checkpoint);
// "2026-11-30 09:15", when its master was written.
std::string time_of(const Checkpoint& checkpoint);

// "4 ranks (tp 2, dp 2, ep 2, zero 1)" and "bf16"; of a configuration that can't be read, what the
// checkpoint says of its layout, and "".
struct ConfigWords {
  std::string layout, precision;
};
ConfigWords config_words(const Checkpoint& checkpoint);

// Each key of its configuration with its value: "train.steps", "data.sources[0].name". Empty if
// that can't be read.
std::map<std::string, std::string> config_keys(const Checkpoint& checkpoint);

}  // namespace pf
