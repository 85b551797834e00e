#include "launch/convert.h"

#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "launch/encoder_pool.h"
#include "launch/pieces.h"
#include "launch/signals.h"
#include "launch/token_writer.h"

namespace pf {
namespace {

// Each source has documents. Only lines of JSON can have none: all of them blank.
class DocumentCheck {
 public:
  explicit DocumentCheck(const std::vector<Source>& sources) : sources_(sources) {}

  // Of pieces in order; returns the documents of this one.
  std::uint64_t add(const EncodedPiece& encoded) {
    std::uint64_t all = 0;
    for (std::size_t p = 0; p < encoded.piece.size(); ++p) {
      const Stretch& part = encoded.piece[p];
      const Source& source = sources_[part.source];
      if (part.begin == 0) documents_ = 0;
      documents_ += encoded.documents[p];
      all += encoded.documents[p];
      require(part.end < source.bytes || documents_ > 0, source.path,
              ": has no documents; a line of JSON for each is wanted");
    }
    return all;
  }

 private:
  const std::vector<Source>& sources_;
  std::uint64_t documents_ = 0;  // of the current source
};

void check_apart(const std::vector<Source>& sources, const std::string& prefix) {
  std::error_code ignored;  // of what is not there
  for (const std::string& output : token_files_of(prefix)) {
    if (!std::filesystem::exists(output, ignored)) continue;
    for (const Source& source : sources)
      require(!std::filesystem::equivalent(source.path, output, ignored), output,
              ": is read and would be written; another --output is wanted");
  }
}

}  // namespace

std::optional<Converted> convert(const ConvertOptions& options, const Tokenizer& tokenizer,
                                 const std::function<void(const ConvertProgress&)>& on_progress) {
  const std::vector<Source> sources = sources_of(options.inputs);
  check_apart(sources, options.prefix);
  ConvertProgress progress;
  for (const Source& source : sources) progress.all_bytes += source.bytes;
  TokenWriter writer(options.prefix, tokenizer, options.replaces);
  DocumentCheck check(sources);
  {
    EncoderPool pool(sources, tokenizer,
                     {options.threads, options.piece_bytes, options.longest_document});
    pool.start();
    on_progress(progress);
    while (const std::optional<EncodedPiece> encoded = pool.next()) {
      progress.documents += check.add(*encoded);
      for (const Stretch& part : encoded->piece) progress.bytes += part.end - part.begin;
      writer.append(*encoded);
      on_progress(progress);
    }
  }
  if (pending_signal() != 0) return std::nullopt;
  const TokenDescription description = writer.finish();
  if (pending_signal() != 0) return std::nullopt;
  writer.publish();
  return Converted{description, progress.bytes, writer.targets()};
}

}  // namespace pf
