#include "launch/documents.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "launch/mapped_file.h"

namespace pf {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::uint8_t>;

// Where the first `byte` is, or the size.
std::size_t find(Bytes bytes, std::uint8_t byte) {
  const void* found = bytes.empty() ? nullptr : std::memchr(bytes.data(), byte, bytes.size());
  if (found == nullptr) return bytes.size();
  return static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - bytes.data());
}

// It ends with the last line end of its second half, if there is one.
std::size_t block_length(Bytes bytes, std::size_t block) {
  if (bytes.size() <= block) return bytes.size();
  const Bytes half = bytes.subspan(block / 2, block - block / 2);
  const auto last = std::find(half.rbegin(), half.rend(), '\n');
  return last == half.rend() ? block : block - static_cast<std::size_t>(last - half.rbegin());
}

bool has_text(Bytes file) {
  const Bytes start = file.first(std::min<std::size_t>(file.size(), 8000));
  return !file.empty() && find(start, 0) == start.size();
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

FileRule rule_of(Bytes file) {
  if (find(file, form_feed) + 1 < file.size()) return {};
  return {std::clamp<std::size_t>(std::bit_floor(file.size() / 512), 1 << 10, 64 << 10)};
}

Document first_document(Bytes rest, FileRule rule) {
  if (rule.block > 0) return {rest.first(block_length(rest, rule.block)), {}};
  const std::size_t length = find(rest, form_feed);
  return {rest.first(length), rest.subspan(length, length < rest.size() ? 1 : 0)};
}

std::vector<std::string> text_files_below(const std::string& folder) {
  std::vector<std::string> paths = files_below(folder);
  const std::size_t all = paths.size();
  std::erase_if(paths, [](const std::string& path) { return !has_text(MappedFile(path).bytes()); });
  require(!paths.empty(), folder, ": none of its ", all, " files has text");
  return paths;
}

}  // namespace pf
