// Token data as Megatron's tools write it: PREFIX.bin holds tokens, PREFIX.idx says where sequences
// and documents begin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "launch/mapped_file.h"

namespace pf {

// Read-only and mapped; const, so that threads may share one. The index is, little-endian: 9 bytes
// "MMIDIDX\0\0", u64 version 1, u8 type (1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16), u64 sequences,
// u64 documents + 1, i32 lengths [sequences] in tokens, i64 offsets [sequences] in bytes of
// PREFIX.bin, i64 first sequences [documents + 1], and, of multimodal data, i8 modes [sequences],
// of which only text (0) is read. Opening checks all of it, in time O(sequences); sequences lie
// without gaps and fill PREFIX.bin. Throws Error that names the file and the byte, sequence or
// document.
class IndexedTokens {
 public:
  explicit IndexedTokens(const std::string& prefix);

  std::uint64_t tokens() const { return tokens_; }
  std::uint64_t documents() const { return documents_; }
  // The first token of a document; of number documents(): tokens().
  std::uint64_t begin_of(std::uint64_t document) const;
  // The document that `token` belongs to, in time O(log documents).
  std::uint64_t document_of(std::uint64_t token) const;
  // The first one that begins at `token` or later, or documents(), in time O(log documents).
  std::uint64_t first_document_from(std::uint64_t token) const;
  // Fills `ids` with the tokens from `first` on, as they are in the file: foreign ids may be any.
  void read(std::uint64_t first, std::span<std::int64_t> ids) const;

 private:
  void check_header();
  void check_sequences() const;
  void check_documents() const;
  std::uint64_t sequence_begin(std::uint64_t sequence) const;  // in tokens

  std::string index_path_, bin_path_;
  MappedFile index_, bin_;
  int type_ = 0;
  std::size_t width_ = 0;  // bytes of a token
  std::uint64_t sequences_ = 0, documents_ = 0, tokens_ = 0;
  std::size_t lengths_at_ = 0, offsets_at_ = 0, documents_at_ = 0, modes_at_ = 0;  // in the index
};

}  // namespace pf
