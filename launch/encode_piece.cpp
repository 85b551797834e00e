#include "launch/encode_piece.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "launch/json_document.h"

namespace pf {
namespace {

using Bytes = std::span<const std::uint8_t>;

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

template <class T>
void pack(const std::vector<std::int32_t>& ids, std::vector<std::uint8_t>& tokens) {
  const std::size_t begin = tokens.size();
  tokens.resize(begin + ids.size() * sizeof(T));
  std::uint8_t* to = tokens.data() + begin;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<T>(ids[i]);
    std::memcpy(to + i * sizeof id, &id, sizeof id);
  }
}

class Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, std::int64_t longest)
      : tokenizer_(tokenizer),
        longest_(longest),
        vocabulary_(tokenizer.vocabulary()),
        width_(token_width(vocabulary_)) {}

  void add_part(const Source& source, const Stretch& part) {
    const MappedFile file = open_source(source);
    Bytes rest = file.bytes().subspan(part.begin, part.end - part.begin);
    const std::size_t before = result_.lengths.size();
    while (!rest.empty()) {
      try {
        rest = rest.subspan(add_first(rest, source.kind, part.rule));
      } catch (const Error& error) {
        const Bytes done = file.bytes().first(part.end - rest.size());
        throw Error(source.path + place_after(done, source.kind) + ": " + error.what(),
                    error.where());
      }
    }
    result_.documents.push_back(result_.lengths.size() - before);
  }

  EncodedPiece take() { return std::move(result_); }

 private:
  // The document at the start of `rest`; returns the bytes that it takes there.
  std::size_t add_first(Bytes rest, Source::Kind kind, FileRule rule) {
    if (kind == Source::Kind::jsonl) return add_line(rest);
    if (kind == Source::Kind::document) {
      add({}, rest, true);
      return rest.size();
    }
    const Document document = first_document(rest, rule);
    add({}, document.text, !document.end.empty());
    return document.text.size() + document.end.size();
  }

  std::size_t add_line(Bytes rest) {
    const auto end = std::find(rest.begin(), rest.end(), '\n');
    const auto size = std::size_t(end - rest.begin());
    const std::string_view line(reinterpret_cast<const char*>(rest.data()), size);
    if (line.find_first_not_of(" \t\r") != line.npos) {
      const JsonDocument document = parse_document(line);
      add(bytes_of(document.prompt), bytes_of(document.text), true);
    }
    return std::min(size + 1, rest.size());
  }

  void add(Bytes prompt, Bytes text, bool has_end) {
    ids_.clear();
    if (!prompt.empty()) tokenizer_.encode(prompt, ids_);
    const std::size_t hidden = ids_.size();
    tokenizer_.encode(text, ids_);
    if (has_end) ids_.push_back(tokenizer_.end_id());
    require(ids_.size() <= std::uint64_t(longest_), "a document of ", ids_.size(),
            " tokens; at most ", longest_, " fit into the format");
    check_ids();
    const std::uint64_t first = result_.tokens.size() / width_;
    if (hidden > 0) result_.hidden.push_back({first, first + hidden});
    result_.lengths.push_back(static_cast<std::int32_t>(ids_.size()));
    if (width_ == 1) return pack<std::uint8_t>(ids_, result_.tokens);
    if (width_ == 2) return pack<std::uint16_t>(ids_, result_.tokens);
    pack<std::int32_t>(ids_, result_.tokens);
  }

  void check_ids() {
    std::int32_t smallest = 0, largest = 0;
    for (const std::int32_t id : ids_) {
      smallest = std::min(smallest, id);
      largest = std::max(largest, id);
    }
    require(smallest >= 0 && largest < vocabulary_, "the tokenizer ", tokenizer_.name(),
            " gave the id ", smallest < 0 ? smallest : largest, "; its vocabulary has ",
            vocabulary_);
    result_.largest_id = std::max(result_.largest_id, largest);
  }

  static std::string place_after(Bytes done, Source::Kind kind) {
    if (kind != Source::Kind::jsonl) return ": byte " + std::to_string(done.size());
    return ':' + std::to_string(std::count(done.begin(), done.end(), '\n') + 1);
  }

  const Tokenizer& tokenizer_;
  std::int64_t longest_, vocabulary_;
  std::size_t width_;
  std::vector<std::int32_t> ids_;  // of one document
  EncodedPiece result_;
};

}  // namespace

std::size_t token_width(std::int64_t vocabulary) {
  return vocabulary <= 256 ? 1 : vocabulary <= 65536 ? 2 : 4;
}

EncodedPiece encode_piece(const std::vector<Source>& sources, Piece piece,
                          const Tokenizer& tokenizer, std::int64_t longest) {
  Encoder encoder(tokenizer, longest);
  for (const Stretch& part : piece) encoder.add_part(sources[part.source], part);
  EncodedPiece encoded = encoder.take();
  encoded.piece = std::move(piece);
  return encoded;
}

}  // namespace pf
