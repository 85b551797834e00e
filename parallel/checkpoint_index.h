// What a checkpoint's master says, taken out of it once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "parallel/checkpoint_files.h"

namespace pf {

// A box of a whole tensor, and where it is.
struct BoxSource {
  Block box;
  int part = 0;
  std::int64_t at = 0;  // its first element in the part's dataset of the tensor's type
};

struct CheckpointIndex {
  CheckpointFacts facts;
  std::vector<std::int64_t> part_bytes;
  std::string part_checksums;                   // their lines
  std::vector<SavedTensor> tensors;             // by name
  std::vector<std::vector<BoxSource>> sources;  // of each
};

// Throws Error naming `path` unless `bytes` are those of a master of a format that is known.
CheckpointIndex read_index(std::span<const std::byte> bytes, const std::string& path);

}  // namespace pf
