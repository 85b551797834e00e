// What stands beside PREFIX.bin and PREFIX.idx (launch/indexed.h): what the tokens are, and which
// of them are targets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace pf {

// PREFIX.json, an object: {"version": 1, "tokenizer": "bytes", "vocabulary": 256, "largest_id":
// 226, "end_id": 12, "documents": 3, "tokens": 200, "mask": false}.
struct TokenDescription {
  std::string tokenizer;
  std::int64_t vocabulary = 0;             // ids of the tokenizer are below it
  std::int64_t largest_id = 0;             // of those in PREFIX.bin
  std::int64_t end_id = 0;                 // that of the end of a document
  std::int64_t documents = 0, tokens = 0;  // 1 or more
  bool has_mask = false;                   // false: PREFIX.mask is not there, or not of these
  bool operator==(const TokenDescription&) const = default;
};

std::string to_json(const TokenDescription& description);

// Nothing if there is no PREFIX.json: other tools wrote the tokens. Throws Error that names the
// file and the key if it is something else, of another version, or has a value that can't be.
std::optional<TokenDescription> read_token_description(const std::string& prefix);

// PREFIX.mask has one bit a token, from the lowest of each byte on: set if the token counts as a
// target. Bits after the last token are 0.
constexpr std::uint64_t mask_bytes(std::uint64_t tokens) {
  return tokens / 8 + (tokens % 8 > 0 ? 1 : 0);
}
inline bool is_target(std::span<const std::uint8_t> mask, std::uint64_t token) {
  return (mask[static_cast<std::size_t>(token / 8)] >> (token % 8) & 1) != 0;
}

}  // namespace pf
