// Tokens that `pentafold data` or other tools have stored, and what is known of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/indexed.h"
#include "launch/text_tokens.h"
#include "launch/token_files.h"

namespace pf {

// PREFIX.bin and PREFIX.idx (launch/indexed.h) with what stands beside them (launch/token_files.h).
// Positions are token numbers. Const: threads may share one.
class StoredTokens {
 public:
  // Held out are whole documents, in time O(log documents) and without reading any: the file is
  // divided into 256 parts of equal length, or fewer where documents are few, and of each those are
  // out that begin in its last `heldout_share`. Throws Error that names the file if anything is
  // missing, wrong, or not of these tokens, or if PREFIX.json says that an id is not below
  // `vocabulary`.
  StoredTokens(const std::string& prefix, double heldout_share, std::int64_t vocabulary);

  const Split& split() const { return split_; }
  // Fills `ids` with the tokens from `first` on. Throws Error for an id outside the vocabulary.
  void read(std::uint64_t first, std::span<std::int32_t> ids) const;
  bool is_target(std::uint64_t token) const;
  // The tokens in `range` that documents begin with, ascending.
  std::vector<std::uint64_t> documents_in(Range range) const;
  // Whether each id is a byte of text.
  bool are_bytes() const;

 private:
  void check_description() const;
  void make_split(double heldout_share);

  std::string prefix_;
  std::int64_t vocabulary_;
  IndexedTokens tokens_;
  std::optional<TokenDescription> description_;
  std::optional<MappedFile> mask_;
  Split split_;
};

}  // namespace pf
