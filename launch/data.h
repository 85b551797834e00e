// The data of a run: its sources, and the order in which they are read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/config_fill.h"
#include "launch/corpus.h"
#include "launch/sampler.h"
#include "models/context.h"

namespace pf {

// Windows of tokens, one after the other: ids and, one place on, their targets, [count * length].
struct Windows {
  std::int64_t count = 0;
  std::vector<std::int32_t> ids, targets;
  std::vector<std::uint8_t> counts;  // 1 where the target counts
  std::vector<std::int64_t> starts;  // rows of documents that do not see what is before

  std::int64_t targets_that_count() const;
  // Of `first_sample`, for a model; these must outlive it.
  Sequences sequences(std::int64_t first_sample) const;
};

// All sources of a configuration. Const: ranks that are threads share one.
class Data {
 public:
  // Throws Error that says where a source was written, and what is wrong with it.
  explicit Data(const config::Config& config, const Places& places = {"configuration", {}});

  // Samples [first, first + count) of the run: a function of the seed and the numbers alone.
  Windows samples(std::uint64_t first, std::int64_t count) const;

  std::size_t sources() const { return corpora_.size(); }
  const std::string& name(std::size_t source) const { return names_[source]; }
  bool is_text(std::size_t source) const { return corpora_[source]->is_text(); }
  std::uint64_t heldout_windows(std::size_t source) const {
    return corpora_[source]->heldout_windows();
  }
  // A line for each source: its name, how many tokens and documents it has, and a hash of samples
  // of its tokens that are spread over it. Equal for the same tokens at another path; takes the
  // time of some hundred reads, however large a source is.
  std::string fingerprints() const;
  // Held-out windows `first`, first + step, ... of a source, `count` of them.
  Windows heldout(std::size_t source, std::uint64_t first, std::uint64_t step,
                  std::int64_t count) const;

 private:
  void open_corpora(const config::Config& config, const Places& places);
  void append(Windows& to, const Window& window) const;

  std::int64_t length_;
  bool sees_documents_before_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<Corpus>> corpora_;
  std::unique_ptr<Sampler> sampler_;
};

}  // namespace pf
