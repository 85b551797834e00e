#include "launch/data.h"

#include <algorithm>

#include "core/error.h"

namespace pf {
namespace {

void append(Windows& to, const std::vector<std::uint8_t>& window) {
  to.ids.insert(to.ids.end(), window.begin(), window.end() - 1);
  to.targets.insert(to.targets.end(), window.begin() + 1, window.end());
}

}  // namespace

Data::Data(const config::Config& config) : length_(config.data().sequence()) {
  require(config.model().vocabulary() >= 256, "model.vocabulary is ", config.model().vocabulary(),
          "; text read as bytes needs 256");
  std::vector<BlendSource> blend;
  for (const config::Source& source : config.data().sources()) {
    names_.push_back(source.name());
    corpora_.push_back(std::make_unique<Corpus>(
        source.path(), CorpusOptions{std::uint64_t(length_), config.data().heldout_share(),
                                     std::uint64_t(config.data().heldout_windows())}));
    blend.push_back({source.name(), corpora_.back()->windows(), source.weight()});
  }
  sampler_ = std::make_unique<Sampler>(blend, std::uint64_t(config.run().seed()));
}

Windows Data::samples(std::uint64_t first, std::int64_t count) const {
  Windows windows;
  std::vector<std::uint8_t> window(std::size_t(length_) + 1);
  for (std::int64_t i = 0; i < count; ++i) {
    const Sample sample = (*sampler_)(first + std::uint64_t(i));
    corpora_[sample.source]->read_window(sample.window, window);
    append(windows, window);
  }
  return windows;
}

Windows Data::heldout(std::size_t source, std::uint64_t first, std::uint64_t step,
                      std::int64_t count) const {
  Windows windows;
  std::vector<std::uint8_t> window(std::size_t(length_) + 1);
  for (std::int64_t i = 0; i < count; ++i) {
    corpora_[source]->read_heldout_window(first + std::uint64_t(i) * step, window);
    append(windows, window);
  }
  return windows;
}

}  // namespace pf
