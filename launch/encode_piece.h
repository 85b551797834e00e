// A piece of text as tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "launch/pieces.h"
#include "models/tokenizer.h"

namespace pf {

// Bytes of a token in a file: the fewest that hold all ids below `vocabulary`, 1, 2 or 4.
std::size_t token_width(std::int64_t vocabulary);

struct TokenRange {
  std::uint64_t first = 0, last = 0;  // [first, last)
};

struct EncodedPiece {
  std::vector<std::uint8_t> tokens;   // token_width() bytes each
  std::vector<std::int32_t> lengths;  // of the documents, in tokens
  std::vector<TokenRange> hidden;     // tokens of this piece that are no targets
  std::int32_t largest_id = 0;
  Piece piece;                           // what it was made of
  std::vector<std::uint64_t> documents;  // of each of its parts
};

// A text's documents end with the tokenizer's end id where it has end marks; one of a folder's
// files and of lines of JSON always. Throws Error that names the file and the line or byte: for a
// document that can't be read or has more than `longest` tokens, or an id that is not the
// tokenizer's.
EncodedPiece encode_piece(const std::vector<Source>& sources, Piece piece,
                          const Tokenizer& tokenizer, std::int64_t longest);

}  // namespace pf
