// How text falls into documents: one rule for training on it and for converting it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pf {

inline constexpr std::uint8_t form_feed = '\f';

// Bytes of the document, and those of its end mark, which may be none.
struct Document {
  std::span<const std::uint8_t> text, end;
};

// The documents of a file end with a form feed, the last one perhaps without; those of a file
// without one (but at its end) are blocks that end at line ends and have no mark.
struct FileRule {
  std::size_t block = 0;  // bytes at most; 0: documents end with form feeds
};

// Reads all of `file`. Blocks are of 64 KiB or, that there may be 512 of them, less, but not below
// 1 KiB.
FileRule rule_of(std::span<const std::uint8_t> file);

// The first document of `rest`: all of a file, or what follows some of its documents; not empty.
Document first_document(std::span<const std::uint8_t> rest, FileRule rule);

// The files of a folder and of folders below it, in the order of their paths, that have text: not
// empty, no name on the way starts with a dot, and no zero is among their first 8,000 bytes. Of
// several, each is one document to which a form feed is added; one alone is as if it were named.
// Throws Error if there is none, or if something can't be read.
std::vector<std::string> text_files_below(const std::string& folder);

}  // namespace pf
