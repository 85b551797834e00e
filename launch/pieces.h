// What is to be converted, cut into pieces that threads can take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "launch/documents.h"
#include "launch/mapped_file.h"

namespace pf {

struct Source {
  enum class Kind : std::uint8_t {
    text,      // documents by the rule of the file
    document,  // one of several in a folder: one document
    jsonl,     // a document a line
  };
  std::string path;
  Kind kind = Kind::text;
  std::uint64_t bytes = 0;
};

// The files that `inputs`, files and folders, stand for, in order; names that end in .jsonl have
// lines of JSON, all others text. Throws Error that names what is missing, unreadable, no regular
// file, empty or a folder without text.
std::vector<Source> sources_of(const std::vector<std::string>& inputs);

// Bytes [begin, end) of a source: whole documents, or whole lines.
struct Stretch {
  std::size_t source = 0;
  std::uint64_t begin = 0, end = 0;
  FileRule rule;  // of Kind::text
};

using Piece = std::vector<Stretch>;

// Cuts sources in order into pieces of at least `bytes`, or a whole document where that is longer;
// only the last may be smaller. Of a large text it reads what the rule of the file needs and the
// ends of pieces.
class PieceCutter {
 public:
  PieceCutter(const std::vector<Source>& sources, std::uint64_t bytes)
      : sources_(sources), bytes_(bytes) {}

  Piece next();  // empty: there are no more

 private:
  Stretch cut(std::uint64_t wanted);
  std::uint64_t end_of_text(std::span<const std::uint8_t> file, std::uint64_t wanted) const;

  const std::vector<Source>& sources_;
  std::uint64_t bytes_;
  Stretch at_;  // where the next part begins
};

// The file of a source. Throws Error if it has not the size that it had.
MappedFile open_source(const Source& source);

}  // namespace pf
