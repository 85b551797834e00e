// Text, JSON lines and folders become token files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "launch/token_files.h"
#include "models/tokenizer.h"

namespace pf {

struct ConvertOptions {
  std::vector<std::string> inputs = {};  // files and folders
  std::string prefix = {};
  int threads = 1;
  bool replaces = false;  // files that are there already
  // Others in tests:
  std::uint64_t piece_bytes = 4 << 20;
  std::int64_t longest_document = std::numeric_limits<std::int32_t>::max();  // of the format
};

struct Converted {
  TokenDescription description;
  std::uint64_t bytes = 0, targets = 0;  // targets: tokens that count
};

struct ConvertProgress {
  std::uint64_t bytes = 0, all_bytes = 0, documents = 0;
};

// Writes the files of token_writer.h; the same bytes with any number of threads, which encode
// pieces while this one appends them in order. At most three pieces a thread are in memory, or one
// document that is longer. Nothing is returned, and nothing is left behind, if a signal comes (the
// caller has a SignalScope). Throws WriteError for what can't be written, other Errors for wrong
// input.
std::optional<Converted> convert(const ConvertOptions& options, const Tokenizer& tokenizer,
                                 const std::function<void(const ConvertProgress&)>& on_progress);

}  // namespace pf
