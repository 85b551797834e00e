#include "launch/data.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

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
  open_corpora(config, places);
  std::vector<BlendSource> blend;
  for (int i = 0; i < config.data().sources_size(); ++i) {
    const config::Source& source = config.data().sources(i);
    names_.push_back(source.name());
    blend.push_back({source.name(), corpora_[std::size_t(i)]->windows(), source.weight()});
  }
  sampler_ = std::make_unique<Sampler>(blend, std::uint64_t(config.run().seed()));
}

// By several threads: of text, all bytes are read and hashed.
void Data::open_corpora(const config::Config& config, const Places& places) {
  const auto count = std::size_t(config.data().sources_size());
  corpora_.resize(count);
  std::vector<std::exception_ptr> failures(count);
  std::atomic<std::size_t> next{0};
  const auto open_some = [&] {
    for (std::size_t i; (i = next++) < count;) try {
        corpora_[i] = std::make_unique<Corpus>(
            config.data().sources(int(i)).path(),
            CorpusOptions{std::uint64_t(length_), config.data().heldout_share(),
                          std::uint64_t(config.data().heldout_windows()),
                          config.model().vocabulary()});
      } catch (...) {
        failures[i] = std::current_exception();
      }
  };
  {
    std::vector<std::jthread> helpers;
    const std::size_t threads = std::min<std::size_t>(count, std::thread::hardware_concurrency());
    for (std::size_t t = 1; t < threads; ++t) helpers.emplace_back(open_some);
    open_some();
  }
  for (std::size_t i = 0; i < count; ++i) {
    try {
      if (failures[i]) std::rethrow_exception(failures[i]);
    } catch (const Error& error) {
      places.fail("data.sources[" + std::to_string(i) + "].path", error.what());
    }
  }
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
