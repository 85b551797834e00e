#include "launch/corpus.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "core/error.h"
#include "launch/document_hash.h"
#include "launch/documents.h"

namespace pf {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::uint8_t>;

}  // namespace

void ByteRow::append(Bytes range) {
  if (range.empty()) return;
  const bool is_next =
      !ranges_.empty() && ranges_.back().data() + ranges_.back().size() == range.data();
  if (is_next) {
    ranges_.back() = {ranges_.back().data(), ranges_.back().size() + range.size()};
  } else {
    ranges_.push_back(range);
    begins_.push_back(size_);
  }
  size_ += range.size();
}

void ByteRow::read_window(std::uint64_t index, std::span<std::uint8_t> window) const {
  std::uint64_t from = index * (window.size() - 1);
  assert(from + window.size() <= size_);
  auto r = static_cast<std::size_t>(std::upper_bound(begins_.begin(), begins_.end(), from) -
                                    begins_.begin() - 1);
  for (std::size_t done = 0; done < window.size(); ++r) {
    const Bytes rest = ranges_[r].subspan(from - begins_[r]);
    const std::size_t part = std::min(rest.size(), window.size() - done);
    std::memcpy(window.data() + done, rest.data(), part);
    done += part;
    from += part;
  }
}

Corpus::Corpus(const std::string& path, const CorpusOptions& options)
    : path_(path), options_(options) {
  require(options.sequence > 0, path, ": data.sequence is 0; at least 1 is wanted");
  require(options.heldout_share >= 0 && options.heldout_share < 1, path, ": data.heldout_share is ",
          options.heldout_share, "; 0 <= share < 1 is wanted");
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  require(status.type() != fs::file_type::not_found, path, ": there is no such file or folder");
  require(fs::exists(status), path, ": can't be read: ", error.message());
  if (fs::is_directory(status)) {
    open_folder();
  } else {
    files_.emplace_back(path);
    require(!files_[0].bytes().empty(), path, ": is empty; text is wanted");
    split_file(files_[0].bytes());
  }

  const std::uint64_t wanted = options.sequence + 1;
  windows_ = training_.windows(options.sequence);
  require(windows_ > 0, path, ": ", training_.size(), " bytes are for training and ",
          heldout_.size(), " held out; one window of data.sequence ", options.sequence, " needs ",
          wanted, ": give more text, a shorter sequence or a smaller data.heldout_share");
  if (options.heldout_share == 0) return;
  heldout_windows_ = std::min(heldout_.windows(options.sequence), options.heldout_windows);
  require(heldout_.windows(options.sequence) > 0, path, ": data.heldout_share ",
          options.heldout_share, " holds out ", heldout_documents_, " of ", documents_,
          " documents, ", heldout_.size(), " bytes; one window of data.sequence ", options.sequence,
          " needs ", wanted, ": give more text or a larger share, or 0 to hold out nothing");
}

void Corpus::read_window(std::uint64_t index, std::span<std::uint8_t> window) const {
  require(index < windows_ && window.size() == options_.sequence + 1, path_, ": window ", index,
          " of ", window.size(), " bytes; there are ", windows_, " of ", options_.sequence + 1);
  training_.read_window(index, window);
}

void Corpus::read_heldout_window(std::uint64_t index, std::span<std::uint8_t> window) const {
  require(index < heldout_windows_ && window.size() == options_.sequence + 1, path_,
          ": held-out window ", index, " of ", window.size(), " bytes; there are ",
          heldout_windows_, " of ", options_.sequence + 1);
  heldout_.read_window(index, window);
}

void Corpus::open_folder() {
  for (const std::string& path : text_files_below(path_)) files_.emplace_back(path);
  if (files_.size() == 1) return split_file(files_[0].bytes());
  for (const MappedFile& file : files_) add(file.bytes(), {&form_feed, 1});
}

void Corpus::split_file(Bytes bytes) {
  const FileRule rule = rule_of(bytes);
  while (!bytes.empty()) {
    const Document document = first_document(bytes, rule);
    add(document.text, document.end);
    bytes = bytes.subspan(document.text.size() + document.end.size());
  }
}

void Corpus::add(Bytes document, Bytes separator) {
  const bool out = is_heldout(document, options_.heldout_share);
  ByteRow& row = out ? heldout_ : training_;
  row.append(document);
  row.append(separator);
  documents_ += 1;
  heldout_documents_ += out ? 1 : 0;
}

}  // namespace pf
