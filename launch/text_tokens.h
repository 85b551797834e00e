// Text as tokens: each byte is one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "launch/mapped_file.h"
#include "launch/row.h"

namespace pf {

// Which positions of some tokens are for training and which measure it.
struct Split {
  Row training, heldout;
  std::uint64_t documents = 0, heldout_documents = 0;  // the first includes the second
};

// A file or a folder. Positions number its bytes, file after file; after each file is one more
// position, a form feed that the file does not have. Const: threads may share one.
class TextTokens {
 public:
  // Documents follow the rule of launch/documents.h; one is held out by its hash alone
  // (launch/document_hash.h), its end mark apart. Reads all bytes once. Throws Error that names the
  // path if it is missing, unreadable or empty.
  TextTokens(const std::string& path, double heldout_share);

  const Split& split() const { return split_; }
  // Fills `ids` with the bytes from position `first` on.
  void read(std::uint64_t first, std::span<std::int32_t> ids) const;
  // The positions in `range` at which documents begin, ascending; of blocks of one text none.
  std::vector<std::uint64_t> documents_in(Range range) const;

 private:
  void add_file(std::size_t number, double share);
  void add_whole(std::size_t number, double share);
  void add(std::span<const std::uint8_t> text, Range range, double share);

  std::vector<MappedFile> files_;
  std::vector<std::uint64_t> begins_;     // of files
  std::vector<std::uint64_t> documents_;  // positions at which they begin
  Split split_;
};

}  // namespace pf
