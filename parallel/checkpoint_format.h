// Names in a checkpoint, beside those of its facts and tensors.
#pragma once

#include <string>

namespace pf {

// Files.
constexpr const char* checkpoint_master = "checkpoint.h5";
constexpr const char* checkpoint_sums = "checksums.xxh128";
std::string checkpoint_part(int number);  // "part-00003.h5"

// What a folder's name ends with while it is not, or no longer, whole.
constexpr const char* being_written = ".writing";
constexpr const char* being_removed = ".removing";

// Attributes of the master's root.
constexpr const char* format_attribute = "format";
constexpr const char* format_version_attribute = "format_version";
constexpr const char* format_name = "pentafold checkpoint";
// Datasets of the master: the bytes of each part, and their checksums, a line each.
constexpr const char* part_bytes = "parts/bytes";
constexpr const char* part_checksums = "parts/checksums";

}  // namespace pf
