#include "launch/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "core/error.h"
#include "launch/document_hash.h"

namespace pf {
namespace {

using Tokens = std::variant<TextTokens, StoredTokens>;

Tokens open_tokens(const std::string& path, const CorpusOptions& options) {
  require(options.sequence > 0, path, ": data.sequence is 0; at least 1 is wanted");
  require(options.heldout_share >= 0 && options.heldout_share < 1, path, ": data.heldout_share is ",
          options.heldout_share, "; 0 <= share < 1 is wanted");
  std::string prefix = path;
  for (const std::string_view suffix : {".bin", ".idx"})
    if (path.ends_with(suffix)) prefix.resize(path.size() - suffix.size());
  std::error_code ignored;
  if (prefix != path || std::filesystem::exists(prefix + ".idx", ignored))
    return Tokens(std::in_place_type<StoredTokens>, prefix, options.heldout_share,
                  options.vocabulary);
  require(!path.ends_with(".jsonl"), path, ": JSON lines are not text; store their tokens with ",
          "pentafold data ", path, " --output PREFIX, and give PREFIX here");
  require(options.vocabulary >= 256, path, ": text is read as bytes, which need ",
          "model.vocabulary=256 or more; found ", options.vocabulary);
  return Tokens(std::in_place_type<TextTokens>, path, options.heldout_share);
}

}  // namespace

Corpus::Corpus(const std::string& path, const CorpusOptions& options)
    : path_(path), options_(options), tokens_(open_tokens(path, options)) {
  const char* unit = is_text() ? " bytes" : " tokens";
  const Row &training = split().training, &heldout = split().heldout;
  windows_ = training.windows(options.sequence);
  require(windows_ > 0, path, ": ", training.size(), unit, " are for training and ", heldout.size(),
          " held out; one window of data.sequence ", options.sequence, " needs ",
          options.sequence + 1, ": give more text, a shorter sequence or a smaller ",
          "data.heldout_share");
  if (options.heldout_share == 0) return;
  heldout_windows_ = std::min(heldout.windows(options.sequence), options.heldout_windows);
  require(heldout.windows(options.sequence) > 0, path, ": data.heldout_share ",
          options.heldout_share, " holds out ", split().heldout_documents, " of ",
          split().documents, " documents, ", heldout.size(), unit, "; one window of data.sequence ",
          options.sequence, " needs ", options.sequence + 1,
          ": give more text or a larger share, or 0 to hold out nothing");
}

const Split& Corpus::split() const {
  return std::visit([](const auto& tokens) -> const Split& { return tokens.split(); }, tokens_);
}

// Samples lie evenly from the first place of a row to the last.
std::string Corpus::fingerprint() const {
  constexpr std::uint64_t samples = 64, longest = 256;
  std::vector<std::uint8_t> bytes;
  const auto append = [&bytes](const auto& values) {
    const auto part = std::as_bytes(std::span(values));
    for (const std::byte byte : part) bytes.push_back(std::to_integer<std::uint8_t>(byte));
  };
  for (const Row* row : {&split().training, &split().heldout}) {
    const std::uint64_t length = std::min(longest, row->size());
    for (std::uint64_t s = 0; s < samples && length > 0; ++s) {
      const std::uint64_t begin = (row->size() - length) / (samples - 1) * s;
      const Window window =
          read_places(*row, s + 1 < samples ? begin : row->size() - length, length);
      append(window.ids);
      append(window.counts);
      append(window.starts);
    }
  }
  return fmt::format("{} {} in {} documents, of these {} held out, hash {:016x}",
                     split().training.size() + split().heldout.size(),
                     is_text() ? "bytes" : "tokens", split().documents, split().heldout_documents,
                     document_hash(bytes));
}

bool Corpus::is_text() const {
  const auto* stored = std::get_if<StoredTokens>(&tokens_);
  return stored == nullptr || stored->are_bytes();
}

Window Corpus::window(std::uint64_t index) const {
  require(index < windows_, path_, ": window ", index, "; there are ", windows_);
  return read(split().training, index);
}

Window Corpus::heldout_window(std::uint64_t index) const {
  require(index < heldout_windows_, path_, ": held-out window ", index, "; there are ",
          heldout_windows_);
  return read(split().heldout, index);
}

Window Corpus::read(const Row& row, std::uint64_t index) const {
  return read_places(row, index * options_.sequence, options_.sequence + 1);
}

Window Corpus::read_places(const Row& row, std::uint64_t from, std::uint64_t size) const {
  Window window;
  window.ids.resize(size);
  window.counts.assign(size, 1);
  std::size_t done = 0;
  for (const Range& range : row.part(from, size)) {
    const std::size_t count = range.end - range.begin;
    std::visit(
        [&](const auto& tokens) {
          tokens.read(range.begin, std::span(window.ids).subspan(done, count));
          // What is not next to each other in the file is of different documents.
          if (done > 0) window.starts.push_back(std::int64_t(done));
          for (const std::uint64_t begin : tokens.documents_in({range.begin, range.end}))
            if (begin > range.begin || done == 0)
              window.starts.push_back(std::int64_t(done + (begin - range.begin)));
        },
        tokens_);
    if (const auto* stored = std::get_if<StoredTokens>(&tokens_))
      for (std::size_t i = 0; i < count; ++i)
        window.counts[done + i] = stored->is_target(range.begin + i) ? 1 : 0;
    done += count;
  }
  return window;
}

}  // namespace pf
