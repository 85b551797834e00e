// The data of a run: its sources, and the order in which they are read.
#pragma once

#include <memory>
#include <vector>

#include "launch/config.h"
#include "launch/corpus.h"
#include "launch/sampler.h"

namespace pf {

// Windows of tokens: ids and, one place on, their targets, [sequences * length] each.
struct Windows {
  std::vector<std::int32_t> ids, targets;
};

// All sources of a configuration. Const: ranks that are threads share one.
class Data {
 public:
  explicit Data(const config::Config& config);

  // Samples [first, first + count) of the run: a function of the seed and the numbers alone.
  Windows samples(std::uint64_t first, std::int64_t count) const;

  std::size_t sources() const { return corpora_.size(); }
  const std::string& name(std::size_t source) const { return names_[source]; }
  std::uint64_t heldout_windows(std::size_t source) const {
    return corpora_[source]->heldout_windows();
  }
  // Held-out windows `first`, first + step, ... of a source, `count` of them.
  Windows heldout(std::size_t source, std::uint64_t first, std::uint64_t step,
                  std::int64_t count) const;

 private:
  std::int64_t length_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<Corpus>> corpora_;
  std::unique_ptr<Sampler> sampler_;
};

}  // namespace pf
