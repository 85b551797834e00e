#include "launch/pieces.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace pf {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::uint8_t>;

Source source_of(const std::string& path, Source::Kind text) {
  const MappedFile file(path);
  require(!file.bytes().empty(), path, ": is empty; text is wanted");
  return {path, path.ends_with(".jsonl") ? Source::Kind::jsonl : text, file.bytes().size()};
}

// One after the first `byte` at `from` or after it, or the size.
std::uint64_t after(Bytes bytes, std::uint64_t from, std::uint8_t byte) {
  const Bytes rest = bytes.subspan(from);
  const auto found = std::find(rest.begin(), rest.end(), byte);
  return found == rest.end() ? bytes.size() : from + std::uint64_t(found - rest.begin()) + 1;
}

}  // namespace

std::vector<Source> sources_of(const std::vector<std::string>& inputs) {
  std::vector<Source> sources;
  for (const std::string& input : inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    require(status.type() != fs::file_type::not_found, input, ": there is no such file or folder");
    require(fs::exists(status), input, ": can't be read: ", error.message());
    if (!fs::is_directory(status)) {
      sources.push_back(source_of(input, Source::Kind::text));
      continue;
    }
    const std::vector<std::string> paths = text_files_below(input);
    const auto kind = paths.size() == 1 ? Source::Kind::text : Source::Kind::document;
    for (const std::string& path : paths) sources.push_back(source_of(path, kind));
  }
  return sources;
}

MappedFile open_source(const Source& source) {
  MappedFile file(source.path);
  require(file.bytes().size() == source.bytes, source.path, ": has ", file.bytes().size(),
          " bytes, and had ", source.bytes, ": files must not change while they are read");
  return file;
}

Piece PieceCutter::next() {
  Piece piece;
  std::uint64_t size = 0;
  while (size < bytes_ && at_.source < sources_.size()) {
    piece.push_back(cut(bytes_ - size));
    size += piece.back().end - piece.back().begin;
  }
  return piece;
}

Stretch PieceCutter::cut(std::uint64_t wanted) {
  const Source& source = sources_[at_.source];
  const bool is_text = source.kind == Source::Kind::text;
  if (is_text && at_.begin == 0) at_.rule = rule_of(open_source(source).bytes());
  Stretch part = at_;
  part.end = source.bytes;
  if (source.kind != Source::Kind::document && source.bytes - at_.begin > wanted) {
    const MappedFile file = open_source(source);  // anew: else all that it touched stays mapped
    part.end = is_text ? end_of_text(file.bytes(), wanted)
                       : after(file.bytes(), at_.begin + wanted - 1, '\n');
  }
  at_.begin = part.end;
  if (part.end == source.bytes) at_ = {at_.source + 1, 0, 0, {}};
  return part;
}

std::uint64_t PieceCutter::end_of_text(Bytes file, std::uint64_t wanted) const {
  if (at_.rule.block == 0) return after(file, at_.begin + wanted - 1, form_feed);
  std::uint64_t end = at_.begin;
  while (end < file.size() && end - at_.begin < wanted)
    end += first_document(file.subspan(end), at_.rule).text.size();
  return end;
}

}  // namespace pf
