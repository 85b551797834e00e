#include "launch/token_writer.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>

#include "core/error.h"

namespace pf {
namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;

// Checks what can be known before anything is written.
const std::string& checked(const std::string& prefix, bool replaces) {
  const fs::path path(prefix);
  require(path.has_filename(), "--output '", prefix,
          "' names no file; a PREFIX like data/english is wanted");
  const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
  std::error_code error;
  require(fs::is_directory(folder, error), folder.string(), ": there is no such folder",
          error ? ": " + error.message() : "");
  for (const std::string& file : token_files_of(prefix))
    require(replaces || !fs::exists(fs::symlink_status(file, error)), file,
            ": exists; another --output is wanted, or --force to replace it");
  return prefix;
}

template <class T>
void put(StagedFile& file, T value) {
  std::array<std::uint8_t, sizeof(T)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);
  file.write(bytes);
}

void remove_if_there(const std::string& path) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT)
    throw WriteError(path + ": can't be replaced: " + std::generic_category().message(errno));
}

}  // namespace

std::vector<std::string> token_files_of(const std::string& prefix) {
  return {prefix + ".bin", prefix + ".idx", prefix + ".json", prefix + ".mask"};
}

TokenWriter::TokenWriter(const std::string& prefix, const Tokenizer& tokenizer, bool replaces)
    : prefix_(checked(prefix, replaces)),
      bin_(prefix + ".bin"),
      index_(prefix + ".idx"),
      json_(prefix + ".json"),
      width_(token_width(tokenizer.vocabulary())),
      description_{.tokenizer = tokenizer.name(),
                   .vocabulary = tokenizer.vocabulary(),
                   .end_id = tokenizer.end_id()} {}

void TokenWriter::append(const EncodedPiece& piece) {
  const std::uint64_t tokens = piece.tokens.size() / width_;
  bin_.write(piece.tokens);
  lengths_.insert(lengths_.end(), piece.lengths.begin(), piece.lengths.end());
  add_mask(piece.hidden, tokens);
  description_.tokens += std::int64_t(tokens);
  description_.largest_id = std::max<std::int64_t>(description_.largest_id, piece.largest_id);
}

void TokenWriter::add_mask(const std::vector<TokenRange>& hidden, std::uint64_t tokens) {
  if (!hidden.empty() && !mask_) {
    mask_.emplace(prefix_ + ".mask");
    add_bits(true, std::uint64_t(description_.tokens));
  }
  std::uint64_t done = 0;
  for (const TokenRange& range : hidden) {
    add_bits(true, range.first - done);
    add_bits(false, range.last - range.first);
    done = range.last;
    targets_ -= range.last - range.first;
  }
  add_bits(true, tokens - done);
  targets_ += tokens;
}

void TokenWriter::add_bits(bool value, std::uint64_t count) {
  if (!mask_) return;
  while (count > 0) {
    if (mask_bits_ % 8 == 0 && count >= 8) {
      std::array<std::uint8_t, 4096> bytes{};
      bytes.fill(value ? 0xFF : 0);
      const std::uint64_t size = std::min<std::uint64_t>(count / 8, bytes.size());
      mask_->write(std::span(bytes).first(size));
      mask_bits_ += 8 * size;
      count -= 8 * size;
      continue;
    }
    if (value) mask_byte_ |= static_cast<std::uint8_t>(1u << (mask_bits_ % 8));
    --count;
    if (++mask_bits_ % 8 > 0) continue;
    put(*mask_, mask_byte_);
    mask_byte_ = 0;
  }
}

void TokenWriter::write_index() {
  const std::uint8_t type = width_ == 1 ? 1 : width_ == 2 ? 8 : 4;
  const std::uint64_t documents = lengths_.size();
  index_.write("MMIDIDX\0\0"sv);
  put(index_, std::uint64_t{1});
  put(index_, type);
  put(index_, documents);
  put(index_, documents + 1);
  for (const std::int32_t length : lengths_) put(index_, length);
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    put(index_, offset);
    offset += length * std::int64_t(width_);
  }
  for (std::uint64_t d = 0; d <= documents; ++d) put(index_, std::int64_t(d));
}

TokenDescription TokenWriter::finish() {
  write_index();
  if (mask_ && mask_bits_ % 8 > 0) put(*mask_, mask_byte_);
  description_.documents = std::int64_t(lengths_.size());
  description_.has_mask = mask_.has_value();
  json_.write(to_json(description_));
  bin_.sync();
  if (mask_) mask_->sync();
  json_.sync();
  index_.sync();
  return description_;
}

void TokenWriter::publish() {
  remove_if_there(prefix_ + ".idx");
  remove_if_there(prefix_ + ".mask");
  bin_.publish();
  if (mask_) mask_->publish();
  json_.publish();
  index_.publish();
  sync_folder_of(prefix_);
  for (StagedFile* file : {&bin_, &json_, &index_}) file->keep();
  if (mask_) mask_->keep();
}

}  // namespace pf
