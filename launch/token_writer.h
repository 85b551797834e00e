// Writes tokens as launch/indexed.h and launch/token_files.h describe them.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "launch/encode_piece.h"
#include "launch/staged_file.h"
#include "launch/token_files.h"
#include "models/tokenizer.h"

namespace pf {

// PREFIX.bin, .idx, .json and .mask.
std::vector<std::string> token_files_of(const std::string& prefix);

// Each document is one sequence. Of documents it keeps only their lengths. Unless publish() is
// reached nothing is left behind, and what was there before stays.
class TokenWriter {
 public:
  // Throws Error that names a folder that is missing or can't be written to and, unless it
  // `replaces` them, a file that is there already.
  TokenWriter(const std::string& prefix, const Tokenizer& tokenizer, bool replaces);

  void append(const EncodedPiece& piece);
  // Writes what is left and waits for the disk.
  TokenDescription finish();
  // The index comes last, and in place of an old one only after that has gone.
  void publish();

  std::uint64_t targets() const { return targets_; }

 private:
  void add_mask(const std::vector<TokenRange>& hidden, std::uint64_t tokens);
  void add_bits(bool value, std::uint64_t count);
  void write_index();

  std::string prefix_;
  StagedFile bin_, index_, json_;
  std::optional<StagedFile> mask_;  // once a token is hidden
  std::uint8_t mask_byte_ = 0;      // bits after the last whole byte
  std::uint64_t mask_bits_ = 0;
  std::uint64_t targets_ = 0;
  std::size_t width_;
  std::deque<std::int32_t> lengths_;
  TokenDescription description_;
};

}  // namespace pf
