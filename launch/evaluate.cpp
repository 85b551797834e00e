#include "launch/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/philox.h"
#include "models/context_parallel.h"
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

// One sequence that does not count, for a replica that has none left.
Windows filling(std::int64_t length) {
  const auto size = std::size_t(length);
  return {1,
          std::vector<std::int32_t>(size),
          std::vector<std::int32_t>(size),
          std::vector<std::uint8_t>(size),
          {}};
}

}  // namespace

Context Evaluator::context(const Windows& windows) const {
  Context context;
  context.mesh = &mesh;
  context.type = type;
  context.seed = std::uint64_t(config.run().seed());
  context.step = step;
  context.batch = make_batch(mesh, windows.sequences(0), type);
  return context;
}

Heldout Evaluator::heldout() const {
  const std::int64_t replicas = mesh.size(axes::dp), replica = mesh.coordinate(axes::dp);
  const std::int64_t at_once = config.train().micro_batch(), length = config.data().sequence();
  Heldout found;
  std::vector<std::vector<LayerChoices>> choices;  // by domain
  for (std::size_t source = 0; source < data.sources(); ++source) {
    const auto windows = std::int64_t(data.heldout_windows(source));
    if (windows == 0) continue;
    double targets = 0;
    Statistics losses;  // of all micro-batches: one sum, so that stages don't wait for each other
    DomainChoices chosen;
    for (std::int64_t first = replica; first - replica < windows; first += at_once * replicas) {
      const std::int64_t left = first < windows ? (windows - first + replicas - 1) / replicas : 0;
      const std::int64_t count = std::min(at_once, left);
      const Windows batch =
          count > 0 ? data.heldout(source, std::uint64_t(first), std::uint64_t(replicas), count)
                    : filling(length);
      Context now = context(batch);
      pipeline.evaluate(now);
      for (const auto& [chunk, loss] : now.statistics.losses)
        losses.losses[int(losses.losses.size())] = loss;
      chosen.add(now.statistics);
      targets += double(batch.targets_that_count());
    }
    const double nats = loss_over_mesh(mesh, losses);
    targets = std::max(1.0, sum_over_replicas(mesh, {targets})[0]);
    found.domains.push_back(
        {data.name(source), nats / targets / std::numbers::ln2, !data.is_text(source)});
    choices.push_back(chosen.over_mesh(mesh, pipeline.model().moe_layers()));
  }
  found.experts = specialisation(choices, config.model().moe().top_k());
  return found;
}

std::vector<TextSample> Evaluator::samples() const {
  const std::int64_t length = config.data().sequence(), bytes = config.train().sample_bytes();
  const std::int64_t prompt = std::min(prompt_bytes, std::max<std::int64_t>(1, length / 2));
  const std::int64_t unit = length_unit(mesh.size(axes::tp), mesh.size(axes::cp));
  std::vector<TextSample> texts;
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::uint32_t> streams;
  for (std::size_t source = 0; source < data.sources(); ++source) {
    if (data.heldout_windows(source) == 0 || !data.is_text(source)) continue;
    const Windows first = data.heldout(source, 0, 1, 1);
    ids.emplace_back(first.ids.begin(), first.ids.begin() + prompt);
    texts.push_back({data.name(source), {ids.back().begin(), ids.back().end()}, {}});
    streams.push_back(sampling_stream + std::uint32_t(source));
  }
  for (std::int64_t i = 0; i < bytes && !texts.empty(); ++i) {
    // All texts are of one length; beyond the longest sequence the oldest bytes fall off. What
    // fills them up for tp and cp comes later than all that is read, and nothing sees it.
    const std::int64_t seen = std::min(length, prompt + i);
    const std::int64_t whole = (seen + unit - 1) / unit * unit;
    Windows windows{std::ssize(texts), {}, {}, {}, {}};
    for (const auto& text : ids) {
      windows.ids.insert(windows.ids.end(), text.end() - seen, text.end());
      windows.ids.resize(windows.ids.size() + std::size_t(whole - seen));
    }
    windows.targets.resize(windows.ids.size());
    Context now = context(windows);
    now.wants_logits = true;
    const std::vector<std::vector<double>> logits = logits_of_token(
        mesh, pipeline.evaluate(now), now.batch, seen - 1, config.model().vocabulary());
    for (std::size_t t = 0; t < texts.size(); ++t) {
      const Random random{now.seed, streams[t], std::uint32_t(step)};
      // A vocabulary may have more ids than there are bytes.
      const std::int32_t next =
          draw(std::span(logits[t]).first(256), config.train().sample_temperature(),
               random.uniform(std::uint64_t(i)));
      ids[t].push_back(next);
      texts[t].text.push_back(char(next));
    }
  }
  return texts;
}

}  // namespace pf
