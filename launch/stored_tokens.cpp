#include "launch/stored_tokens.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace pf {
namespace {

constexpr double most_parts = 256;

}  // namespace

StoredTokens::StoredTokens(const std::string& prefix, double heldout_share, std::int64_t vocabulary)
    : prefix_(prefix),
      vocabulary_(vocabulary),
      tokens_(prefix),
      description_(read_token_description(prefix)) {
  if (description_) check_description();
  if (description_ && description_->has_mask) {
    mask_.emplace(prefix + ".mask");
    require(mask_->bytes().size() == mask_bytes(tokens_.tokens()), prefix, ".mask: has ",
            mask_->bytes().size(), " bytes; ", tokens_.tokens(), " tokens need ",
            mask_bytes(tokens_.tokens()));
  }
  make_split(heldout_share);
}

void StoredTokens::check_description() const {
  const auto check = [&](const char* key, std::int64_t found, std::uint64_t wanted) {
    require(std::uint64_t(found) == wanted, prefix_, ".json: ", key, ": found ", found, ", but ",
            prefix_, ".idx has ", wanted, "; write both anew with pentafold data");
  };
  check("documents", description_->documents, tokens_.documents());
  check("tokens", description_->tokens, tokens_.tokens());
  require(description_->largest_id < vocabulary_, prefix_, ".json: largest_id is ",
          description_->largest_id, ", but model.vocabulary=", vocabulary_,
          "; wanted a vocabulary of at least ", description_->largest_id + 1);
}

void StoredTokens::make_split(double heldout_share) {
  const std::uint64_t tokens = tokens_.tokens();
  // Not so many parts that no document fits into what is held out of one. All is exact: tokens are
  // fewer than 2^53.
  const auto parts = std::uint64_t(
      std::clamp(std::floor(double(tokens_.documents()) * heldout_share), 1.0, most_parts));
  const double length = double(tokens) / double(parts);
  std::uint64_t document = 0;
  for (std::uint64_t part = 1; part <= parts; ++part) {
    const double end = double(part) * length;
    const auto from = std::uint64_t(std::ceil(std::max(0.0, end - heldout_share * length)));
    const std::uint64_t first = tokens_.first_document_from(std::min(from, tokens));
    const std::uint64_t last = part == parts
                                   ? tokens_.documents()
                                   : tokens_.first_document_from(std::uint64_t(std::ceil(end)));
    const std::uint64_t begin = heldout_share > 0 ? std::max(first, document) : last;
    split_.training.append({tokens_.begin_of(document), tokens_.begin_of(begin)});
    split_.heldout.append({tokens_.begin_of(begin), tokens_.begin_of(last)});
    split_.heldout_documents += last - begin;
    document = last;
  }
  split_.documents = tokens_.documents();
}

void StoredTokens::read(std::uint64_t first, std::span<std::int32_t> ids) const {
  std::vector<std::int64_t> wide(ids.size());
  tokens_.read(first, wide);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    require(wide[i] >= 0 && wide[i] < vocabulary_, prefix_, ".bin: token ", first + i,
            " (in document ", tokens_.document_of(first + i), ") has id ", wide[i],
            "; model.vocabulary=", vocabulary_, " allows 0 to ", vocabulary_ - 1);
    ids[i] = std::int32_t(wide[i]);
  }
}

bool StoredTokens::is_target(std::uint64_t token) const {
  return !mask_ || pf::is_target(mask_->bytes(), token);
}

std::vector<std::uint64_t> StoredTokens::documents_in(Range range) const {
  std::vector<std::uint64_t> begins;
  for (std::uint64_t d = tokens_.first_document_from(range.begin); d < tokens_.documents(); ++d) {
    const std::uint64_t begin = tokens_.begin_of(d);
    if (begin >= range.end) break;
    if (begins.empty() || begins.back() != begin) begins.push_back(begin);  // one may be empty
  }
  return begins;
}

bool StoredTokens::are_bytes() const {
  return description_ && description_->tokenizer == "bytes";
}

}  // namespace pf
