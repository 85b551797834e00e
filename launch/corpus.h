// One source of text: the windows that training sees and those that measure it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "launch/mapped_file.h"

namespace pf {

// A row of byte ranges read as one; it does not own them. Windows of it start every `sequence`
// bytes and have one byte more, the last target, which is also the next window's first byte.
class ByteRow {
 public:
  void append(std::span<const std::uint8_t> range);  // next to the last one: they become one
  const std::vector<std::span<const std::uint8_t>>& ranges() const { return ranges_; }
  std::uint64_t size() const { return size_; }

  std::uint64_t windows(std::uint64_t sequence) const {
    return size_ > sequence ? (size_ - 1) / sequence : 0;
  }
  // Fills `window` [sequence + 1] with window number `index`, in time O(log of ranges).
  void read_window(std::uint64_t index, std::span<std::uint8_t> window) const;

 private:
  std::vector<std::span<const std::uint8_t>> ranges_;
  std::vector<std::uint64_t> begins_;  // of each range in the row
  std::uint64_t size_ = 0;
};

struct CorpusOptions {
  std::uint64_t sequence = 256;
  double heldout_share = 0.02;  // of the range of hashes, 0 <= share < 1; 0: none is held out
  std::uint64_t heldout_windows = 200;  // at most
};

// A file or a folder as bytes, cut into documents by the rule of launch/documents.h, each for
// training or held out by its hash alone (launch/document_hash.h), its end mark apart.
// Windows run across documents, in file order, of training documents alone or of held-out ones
// alone. The constructor reads all bytes once. Everything else is const and needs no lock.
// Throws Error that names the path: if it is missing, unreadable, empty, or too short for a window,
// in training or, with a share above 0, held out.
class Corpus {
 public:
  Corpus(const std::string& path, const CorpusOptions& options);

  std::uint64_t windows() const { return windows_; }
  std::uint64_t heldout_windows() const { return heldout_windows_; }
  // Fill `window` [sequence + 1] with number `index` of windows() or of heldout_windows().
  void read_window(std::uint64_t index, std::span<std::uint8_t> window) const;
  void read_heldout_window(std::uint64_t index, std::span<std::uint8_t> window) const;

  const ByteRow& training() const { return training_; }
  const ByteRow& heldout() const { return heldout_; }
  std::uint64_t documents() const { return documents_; }  // held-out ones included
  std::uint64_t heldout_documents() const { return heldout_documents_; }

 private:
  void open_folder();
  void split_file(std::span<const std::uint8_t> bytes);
  void add(std::span<const std::uint8_t> document, std::span<const std::uint8_t> separator);

  std::string path_;
  CorpusOptions options_;
  std::vector<MappedFile> files_;
  ByteRow training_, heldout_;
  std::uint64_t windows_ = 0, heldout_windows_ = 0;
  std::uint64_t documents_ = 0, heldout_documents_ = 0;
};

}  // namespace pf
