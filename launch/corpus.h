// One source of tokens: the windows that training sees and those that measure it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "launch/stored_tokens.h"
#include "launch/text_tokens.h"

namespace pf {

struct CorpusOptions {
  std::uint64_t sequence = 256;
  double heldout_share = 0.02;          // 0 <= share < 1; 0: none is held out
  std::uint64_t heldout_windows = 200;  // at most
  std::int64_t vocabulary = 256;
};

// A run of tokens.
struct Window {
  std::vector<std::int32_t> ids;     // [sequence + 1]: the last is a target alone
  std::vector<std::uint8_t> counts;  // [sequence + 1]: 1 where the token counts as a target
  std::vector<std::int64_t> starts;  // places in ids at which documents begin, ascending
};

// What is at `path`: PREFIX of stored tokens (also as PREFIX.bin or PREFIX.idx), or text, a file or
// a folder. Windows run across documents, in their order, of training documents alone or of
// held-out ones alone. Const: threads may share one. Throws Error that names the path if it is
// wrong (launch/text_tokens.h, launch/stored_tokens.h) or too short for a window, in training or,
// with a share above 0, held out.
class Corpus {
 public:
  Corpus(const std::string& path, const CorpusOptions& options);

  std::uint64_t windows() const { return windows_; }
  std::uint64_t heldout_windows() const { return heldout_windows_; }
  // Number `index` of windows() or of heldout_windows().
  Window window(std::uint64_t index) const;
  Window heldout_window(std::uint64_t index) const;

  // How many tokens and documents there are, and a hash of some of them (Data::fingerprints).
  std::string fingerprint() const;

  const Split& split() const;
  bool is_text() const;  // each token is a byte

 private:
  Window read(const Row& row, std::uint64_t index) const;
  Window read_places(const Row& row, std::uint64_t from, std::uint64_t size) const;

  std::string path_;
  CorpusOptions options_;
  std::variant<TextTokens, StoredTokens> tokens_;
  std::uint64_t windows_ = 0, heldout_windows_ = 0;
};

}  // namespace pf
