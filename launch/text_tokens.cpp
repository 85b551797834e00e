#include "launch/text_tokens.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "launch/document_hash.h"
#include "launch/documents.h"

namespace pf {

namespace fs = std::filesystem;

// Bytes of a read: a window. Of fewer, many are read from the same pages.
constexpr std::size_t worth_forgetting = 128;

TextTokens::TextTokens(const std::string& path, double heldout_share) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  require(status.type() != fs::file_type::not_found, path, ": there is no such file or folder");
  require(fs::exists(status), path, ": can't be read: ", error.message());
  std::vector<std::string> paths{path};
  if (fs::is_directory(status)) paths = text_files_below(path);
  std::uint64_t begin = 0;
  for (const std::string& file : paths) {
    files_.emplace_back(file);
    begins_.push_back(begin);
    begin += files_.back().bytes().size() + 1;
  }
  require(!files_[0].bytes().empty(), path, ": is empty; text is wanted");
  for (std::size_t f = 0; f < files_.size(); ++f) {
    if (files_.size() == 1)
      add_file(f, heldout_share);
    else
      add_whole(f, heldout_share);
    files_[f].forget(0, files_[f].bytes().size());
  }
}

void TextTokens::add_file(std::size_t number, double share) {
  auto rest = files_[number].bytes();
  const FileRule rule = rule_of(rest);
  for (std::uint64_t at = begins_[number]; !rest.empty();) {
    const Document document = first_document(rest, rule);
    const std::size_t size = document.text.size() + document.end.size();
    if (rule.block == 0) documents_.push_back(at);
    add(document.text, {at, at + size}, share);
    at += size;
    rest = rest.subspan(size);
  }
}

void TextTokens::add_whole(std::size_t number, double share) {
  const auto bytes = files_[number].bytes();
  documents_.push_back(begins_[number]);
  add(bytes, {begins_[number], begins_[number] + bytes.size() + 1}, share);
}

void TextTokens::add(std::span<const std::uint8_t> text, Range range, double share) {
  const bool out = is_heldout(text, share);
  (out ? split_.heldout : split_.training).append(range);
  split_.documents += 1;
  split_.heldout_documents += out ? 1 : 0;
}

void TextTokens::read(std::uint64_t first, std::span<std::int32_t> ids) const {
  auto f = static_cast<std::size_t>(std::ranges::upper_bound(begins_, first) - begins_.begin() - 1);
  for (; !ids.empty(); ++f) {
    const auto rest = files_[f].bytes().subspan(first - begins_[f]);
    const std::size_t taken = std::min(rest.size(), ids.size());
    std::ranges::copy(rest.first(taken), ids.begin());
    if (taken >= worth_forgetting) files_[f].forget(first - begins_[f], taken);
    const std::size_t with_end = std::min(rest.size() + 1, ids.size());
    if (with_end > taken) ids[taken] = form_feed;
    ids = ids.subspan(with_end);
    first += with_end;
  }
}

std::vector<std::uint64_t> TextTokens::documents_in(Range range) const {
  const auto begin = std::ranges::lower_bound(documents_, range.begin);
  return {begin, std::ranges::lower_bound(documents_, range.end)};
}

}  // namespace pf
