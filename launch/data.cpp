#include "launch/data.h"

#include <algorithm>

#include "core/error.h"
#include "launch/text.h"

namespace pf {

std::int64_t Windows::targets_that_count() const {
  return std::ranges::count(counts, 1);
}

Sequences Windows::sequences(std::int64_t first_sample) const {
  return {count, first_sample, ids, targets, counts, starts};
}

Data::Data(const config::Config& config, const Places& places)
    : length_(config.data().sequence()), sees_documents_before_(config.data().across_documents()) {
  std::vector<BlendSource> blend;
  for (int i = 0; i < config.data().sources_size(); ++i) {
    const config::Source& source = config.data().sources(i);
    names_.push_back(source.name());
    try {
      corpora_.push_back(std::make_unique<Corpus>(
          source.path(), CorpusOptions{std::uint64_t(length_), config.data().heldout_share(),
                                       std::uint64_t(config.data().heldout_windows()),
                                       config.model().vocabulary()}));
    } catch (const Error& error) {
      places.fail("data.sources[" + std::to_string(i) + "].path", error.what());
    }
    blend.push_back({source.name(), corpora_.back()->windows(), source.weight()});
  }
  sampler_ = std::make_unique<Sampler>(blend, std::uint64_t(config.run().seed()));
}

void Data::append(Windows& to, const Window& window) const {
  const std::int64_t row = to.count * length_;
  to.count += 1;
  to.ids.insert(to.ids.end(), window.ids.begin(), window.ids.end() - 1);
  to.targets.insert(to.targets.end(), window.ids.begin() + 1, window.ids.end());
  to.counts.insert(to.counts.end(), window.counts.begin() + 1, window.counts.end());
  if (sees_documents_before_) return;
  for (const std::int64_t start : window.starts) {
    if (start < length_) to.starts.push_back(row + start);
    // The end of a document can't know which one comes next.
    if (start > 0) to.counts[std::size_t(row + start - 1)] = 0;
  }
}

Windows Data::samples(std::uint64_t first, std::int64_t count) const {
  Windows windows;
  for (std::int64_t i = 0; i < count; ++i) {
    const Sample sample = (*sampler_)(first + std::uint64_t(i));
    append(windows, corpora_[sample.source]->window(sample.window));
  }
  return windows;
}

std::string Data::fingerprints() const {
  std::string lines;
  for (std::size_t i = 0; i < sources(); ++i)
    lines += printable(name(i)) + ": " + corpora_[i]->fingerprint() + '\n';
  return lines;
}

Windows Data::heldout(std::size_t source, std::uint64_t first, std::uint64_t step,
                      std::int64_t count) const {
  Windows windows;
  for (std::int64_t i = 0; i < count; ++i)
    append(windows, corpora_[source]->heldout_window(first + std::uint64_t(i) * step));
  return windows;
}

}  // namespace pf
