#include "launch/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/philox.h"
#include "models/metrics.h"
#include "parallel/table.h"

namespace pf {
namespace {

constexpr std::uint32_t sampling_stream = 0x80000000;
constexpr std::int64_t prompt_bytes = 64;

// One token of exp(logits / temperature), by inverting its cumulative sum at `uniform`.
std::int32_t draw(std::span<const double> logits, double temperature, double uniform) {
  const auto top = std::ranges::max_element(logits);
  if (temperature == 0) return std::int32_t(top - logits.begin());
  std::vector<double> sums;
  double sum = 0;
  for (const double x : logits) sums.push_back(sum += std::exp((x - *top) / temperature));
  const auto at = std::ranges::upper_bound(sums, uniform * sum);
  return std::int32_t(std::min<std::ptrdiff_t>(at - sums.begin(), std::ptrdiff_t(sums.size()) - 1));
}

}  // namespace

Context Evaluator::context(std::int64_t sequences, const Windows& windows,
                           std::int64_t valid) const {
  Context context;
  context.mesh = &mesh;
  context.type = type;
  context.seed = std::uint64_t(config.run().seed());
  context.step = step;
  context.batch = make_batch(mesh, windows.ids, windows.targets, sequences, 0, type);
  const std::int64_t rows = valid * context.batch.length;
  if (valid < sequences) {
    const Tensor rest = context.batch.mask.rows(rows, context.batch.mask.size());
    backend(rest).fill(rest, 0);
  }
  return context;
}

std::vector<DomainBits> Evaluator::heldout() const {
  const std::int64_t replicas = mesh.size(axes::dp), replica = mesh.coordinate(axes::dp);
  const std::int64_t at_once = config.train().micro_batch(), length = config.data().sequence();
  std::vector<DomainBits> found;
  for (std::size_t source = 0; source < data.sources(); ++source) {
    const auto windows = std::int64_t(data.heldout_windows(source));
    if (windows == 0) continue;
    double nats = 0;
    for (std::int64_t first = replica; first - replica < windows; first += at_once * replicas) {
      const std::int64_t left = first < windows ? (windows - first + replicas - 1) / replicas : 0;
      const std::int64_t valid = std::min(at_once, left);
      Windows batch = data.heldout(source, std::uint64_t(first), std::uint64_t(replicas), valid);
      batch.ids.resize(std::size_t(at_once * length));
      batch.targets.resize(std::size_t(at_once * length));
      Context now = context(at_once, batch, valid);
      stage.evaluate(now);
      nats += loss_over_mesh(mesh, now.statistics);
    }
    found.push_back({data.name(source), nats / double(windows * length) / std::numbers::ln2});
  }
  return found;
}

std::vector<TextSample> Evaluator::samples() const {
  const std::int64_t length = config.data().sequence(), bytes = config.train().sample_bytes();
  const auto sources = std::int64_t(data.sources());
  const std::int64_t prompt = std::min(prompt_bytes, std::max<std::int64_t>(1, length / 2));
  std::vector<TextSample> texts;
  std::vector<std::vector<std::int32_t>> ids;
  for (std::int64_t source = 0; source < sources; ++source) {
    if (data.heldout_windows(std::size_t(source)) == 0) return {};
    const Windows first = data.heldout(std::size_t(source), 0, 1, 1);
    ids.emplace_back(first.ids.begin(), first.ids.begin() + prompt);
    texts.push_back({data.name(std::size_t(source)), {ids.back().begin(), ids.back().end()}, {}});
  }
  for (std::int64_t i = 0; i < bytes; ++i) {
    // All texts are of one length; beyond the longest sequence the oldest bytes fall off.
    const std::int64_t seen = std::min(length, prompt + i);
    Windows windows;
    for (const auto& text : ids)
      windows.ids.insert(windows.ids.end(), text.end() - seen, text.end());
    windows.targets.resize(windows.ids.size());
    Context now = context(sources, windows, sources);
    now.wants_logits = true;
    const std::vector<std::vector<double>> logits = last_logits(stage.evaluate(now), sources);
    for (std::int64_t source = 0; source < sources; ++source) {
      const Random random{now.seed, sampling_stream + std::uint32_t(source), std::uint32_t(step)};
      const std::int32_t next =
          draw(logits[std::size_t(source)], config.train().sample_temperature(),
               random.uniform(std::uint64_t(i)));
      ids[std::size_t(source)].push_back(next);
      texts[std::size_t(source)].text.push_back(char(next));
    }
  }
  return texts;
}

}  // namespace pf
