#include "launch/indexed.h"

#include <array>
#include <cstring>

#include "core/error.h"

namespace pf {
namespace {

constexpr std::array<char, 9> magic{'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr std::size_t header_bytes = 34;
constexpr std::array<std::size_t, 9> widths{0, 1, 1, 2, 4, 8, 0, 0, 2};  // by type

template <class T>
T value_at(std::span<const std::uint8_t> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <class T>
void widen(std::span<const std::uint8_t> bytes, std::span<std::int64_t> ids) {
  // Ids of i8 are numbers, not characters.
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = value_at<T>(bytes, i * sizeof(T));  // NOLINT(bugprone-signed-char-misuse)
}

}  // namespace

IndexedTokens::IndexedTokens(const std::string& prefix)
    : index_path_(prefix + ".idx"),
      bin_path_(prefix + ".bin"),
      index_(index_path_),
      bin_(bin_path_) {
  check_header();
  check_sequences();
  check_documents();
}

void IndexedTokens::check_header() {
  const auto bytes = index_.bytes();
  require(bytes.size() >= header_bytes, index_path_, ": ends at byte ", bytes.size(),
          "; the header alone has ", header_bytes);
  require(std::memcmp(bytes.data(), magic.data(), magic.size()) == 0, index_path_,
          ": byte 0: does not start with MMIDIDX; it is no index of tokens");
  const auto version = value_at<std::uint64_t>(bytes, 9);
  require(version == 1, index_path_, ": byte 9: version ", version, "; 1 is wanted");
  type_ = bytes[17];
  require(std::size_t(type_) < widths.size() && widths[std::size_t(type_)] > 0, index_path_,
          ": byte 17: type ", type_, "; one of integers is wanted: 1 to 5 or 8");
  width_ = widths[std::size_t(type_)];
  sequences_ = value_at<std::uint64_t>(bytes, 18);
  const auto bounds = value_at<std::uint64_t>(bytes, 26);
  const std::uint64_t rest = bytes.size() - header_bytes;
  require(sequences_ <= rest / 12, index_path_, ": byte 18: ", sequences_,
          " sequences; the file's ", bytes.size(), " bytes hold fewer");
  require(bounds >= 1 && bounds <= (rest - 12 * sequences_) / 8, index_path_, ": byte 26: ", bounds,
          " bounds of documents; 1 or more are wanted, and room for them in the file's ",
          bytes.size(), " bytes");
  documents_ = bounds - 1;
  lengths_at_ = header_bytes;
  offsets_at_ = lengths_at_ + 4 * sequences_;
  documents_at_ = offsets_at_ + 8 * sequences_;
  modes_at_ = documents_at_ + 8 * bounds;
  require(bytes.size() == modes_at_ || bytes.size() == modes_at_ + sequences_, index_path_,
          ": has ", bytes.size(), " bytes; its header says ", modes_at_);
  tokens_ = bin_.bytes().size() / width_;
}

void IndexedTokens::check_sequences() const {
  const auto bytes = index_.bytes();
  std::uint64_t end = 0;  // in bytes of the tokens' file
  for (std::uint64_t s = 0; s < sequences_; ++s) {
    const auto length = value_at<std::int32_t>(bytes, lengths_at_ + 4 * s);
    const auto offset = value_at<std::int64_t>(bytes, offsets_at_ + 8 * s);
    require(length >= 0, index_path_, ": byte ", lengths_at_ + 4 * s, ": sequence ", s, " has ",
            length, " tokens");
    require(offset >= 0 && std::uint64_t(offset) == end, index_path_, ": byte ",
            offsets_at_ + 8 * s, ": sequence ", s, " begins at byte ", offset, " of ", bin_path_,
            "; the one before ends at ", end);
    end += std::uint64_t(length) * width_;
    require(end <= bin_.bytes().size(), bin_path_, ": ends at byte ", bin_.bytes().size(),
            "; sequence ", s, " ends at ", end);
    const int mode = bytes.size() > modes_at_ ? bytes[modes_at_ + s] : 0;
    require(mode == 0, index_path_, ": byte ", modes_at_ + s, ": sequence ", s, " is of mode ",
            mode, "; only text, 0, can be read");
  }
  require(end == bin_.bytes().size(), bin_path_, ": has ", bin_.bytes().size(), " bytes; ",
          index_path_, " says ", end);
  require(end > 0, bin_path_, ": has no tokens");
}

void IndexedTokens::check_documents() const {
  std::int64_t last = 0;
  for (std::uint64_t d = 0; d <= documents_; ++d) {
    const std::size_t at = documents_at_ + 8 * d;
    const auto bound = value_at<std::int64_t>(index_.bytes(), at);
    require(bound >= last && std::uint64_t(bound) <= sequences_ && (d > 0 || bound == 0),
            index_path_, ": byte ", at, ": document ", d, " begins with sequence ", bound,
            "; wanted from ", last, " to ", d == 0 ? 0 : sequences_);
    last = bound;
  }
  require(std::uint64_t(last) == sequences_, index_path_, ": byte ", documents_at_ + 8 * documents_,
          ": the documents end with sequence ", last, " of ", sequences_);
}

std::uint64_t IndexedTokens::sequence_begin(std::uint64_t sequence) const {
  if (sequence == sequences_) return tokens_;
  return std::uint64_t(value_at<std::int64_t>(index_.bytes(), offsets_at_ + 8 * sequence)) / width_;
}

std::uint64_t IndexedTokens::begin_of(std::uint64_t document) const {
  require(document <= documents_, index_path_, ": document ", document, " of ", documents_);
  const auto at = documents_at_ + 8 * document;
  return sequence_begin(std::uint64_t(value_at<std::int64_t>(index_.bytes(), at)));
}

std::uint64_t IndexedTokens::document_of(std::uint64_t token) const {
  require(token < tokens_, index_path_, ": token ", token, " of ", tokens_);
  std::uint64_t first = 0, last = documents_;  // begins at or before the token; after it
  while (last - first > 1) {
    const std::uint64_t middle = first + (last - first) / 2;
    (begin_of(middle) <= token ? first : last) = middle;
  }
  return first;
}

std::uint64_t IndexedTokens::first_document_from(std::uint64_t token) const {
  std::uint64_t first = 0, last = documents_;  // all before first begin earlier; last does not
  while (first < last) {
    const std::uint64_t middle = first + (last - first) / 2;
    if (begin_of(middle) < token)
      first = middle + 1;
    else
      last = middle;
  }
  return first;
}

void IndexedTokens::read(std::uint64_t first, std::span<std::int64_t> ids) const {
  require(first <= tokens_ && ids.size() <= tokens_ - first, bin_path_, ": tokens ", first, " to ",
          first + ids.size(), "; there are ", tokens_);
  const auto bytes = bin_.bytes().subspan(first * width_, ids.size() * width_);
  if (type_ == 1) return widen<std::uint8_t>(bytes, ids);
  if (type_ == 2) return widen<std::int8_t>(bytes, ids);
  if (type_ == 3) return widen<std::int16_t>(bytes, ids);
  if (type_ == 4) return widen<std::int32_t>(bytes, ids);
  if (type_ == 5) return widen<std::int64_t>(bytes, ids);
  widen<std::uint16_t>(bytes, ids);
}

}  // namespace pf
