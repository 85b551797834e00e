#include "launch/corpus.h"

#include <algorithm>
#include <bit>
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

namespace pf {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::uint8_t>;

constexpr std::uint8_t form_feed = '\f';

// Where the first `byte` is, or the size.
std::size_t find(Bytes bytes, std::uint8_t byte) {
  const void* found = bytes.empty() ? nullptr : std::memchr(bytes.data(), byte, bytes.size());
  if (found == nullptr) return bytes.size();
  return static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - bytes.data());
}

bool is_binary(Bytes bytes) {
  const Bytes start = bytes.first(std::min<std::size_t>(bytes.size(), 8000));
  return find(start, 0) < start.size();
}

// The length of the block that `bytes` start with: it ends with the last line end of its second
// half, if there is one.
std::size_t block_length(Bytes bytes, std::size_t block) {
  if (bytes.size() <= block) return bytes.size();
  const Bytes half = bytes.subspan(block / 2, block - block / 2);
  const auto last = std::find(half.rbegin(), half.rend(), '\n');
  return last == half.rend() ? block : block - static_cast<std::size_t>(last - half.rbegin());
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  for (const fs::recursive_directory_iterator end; !error && at != end; at.increment(error)) {
    std::error_code ignored;  // of a link that leads nowhere
    const bool is_hidden = at->path().filename().string().starts_with('.');
    if (is_hidden && at->is_directory(ignored)) at.disable_recursion_pending();
    if (!is_hidden && at->is_regular_file(ignored)) paths.push_back(at->path().string());
  }
  require(!error, folder, ": can't be read: ", error.message());
  std::sort(paths.begin(), paths.end());
  return paths;
}

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
  const std::vector<std::string> paths = files_below(path_);
  for (const std::string& path : paths) {
    MappedFile file(path);
    if (!file.bytes().empty() && !is_binary(file.bytes())) files_.push_back(std::move(file));
  }
  require(!files_.empty(), path_, ": none of its ", paths.size(), " files has text");
  if (files_.size() == 1) return split_file(files_[0].bytes());
  for (const MappedFile& file : files_) add(file.bytes(), {&form_feed, 1});
}

void Corpus::split_file(Bytes bytes) {
  if (find(bytes, form_feed) + 1 < bytes.size()) {
    while (!bytes.empty()) {
      const std::size_t length = find(bytes, form_feed);
      const std::size_t separator = length < bytes.size() ? 1 : 0;
      add(bytes.first(length), bytes.subspan(length, separator));
      bytes = bytes.subspan(length + separator);
    }
    return;
  }
  const std::size_t block =
      std::clamp<std::size_t>(std::bit_floor(bytes.size() / 512), 1 << 10, 64 << 10);
  while (!bytes.empty()) {
    const std::size_t length = block_length(bytes, block);
    add(bytes.first(length), {});
    bytes = bytes.subspan(length);
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
