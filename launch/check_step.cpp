#include "launch/check_step.h"

#include <algorithm>
#include <numeric>

#include "core/backend.h"
#include "core/error.h"
#include "launch/config_rules.h"
#include "launch/learner.h"
#include "launch/run_mesh.h"
#include "models/metrics.h"
#include "optim/schedule.h"

namespace pf {
namespace {

// Made-up tokens, all of whose targets count.
Windows tokens_of(const config::Config& config, std::int64_t count) {
  const std::int64_t size = count * config.data().sequence();
  Windows windows{count, {}, {}, std::vector<std::uint8_t>(std::size_t(size), 1), {}};
  for (std::int64_t i = 0; i < size; ++i)
    windows.ids.push_back(std::int32_t(i % config.model().vocabulary()));
  windows.targets = windows.ids;
  return windows;
}

// As a trainer does, with its collectives.
void take_step(const config::Config& config, const Mesh& mesh, Learner& learner,
               std::int64_t step) {
  const std::vector<Statistics> statistics = learner.run(step, [](const char*) {});
  learner.gradients().finish();
  const StepStatistics sums = over_mesh(mesh, learner.model().moe_layers(), statistics, 0);
  learner.change_weights(learning_rate(config.optimizer(), step, config.train().steps()), 1,
                         sums.expert_counts);
  largest_over_mesh(mesh, {0, 0});
}

// Whole on this rank, and slices of the others.
std::int64_t parameters_of(Learner& learner) {
  std::int64_t sum = 0;
  learner.model().visit({.parameter = [&](Parameter& w) {
    if (w.value()) sum += w.size();
  }});
  for (const Part& part : learner.gradients().parts())
    if (part.kept_value) sum += part.size();
  return sum;
}

// Of what is live now, and of what was at the peak.
void count_memory(const Device& device, RankNeeds& needs) {
  const auto held = [&](std::string_view part) {
    return std::int64_t(device.memory_of(part).live);
  };
  needs.weights = held(parts::weights);
  needs.gradients = held(parts::gradients);
  needs.states = held(parts::states);
  needs.copies = held(parts::copies);
  needs.other = std::int64_t(device.memory().live) - needs.held();
  needs.peak = std::int64_t(device.memory().peak);
  needs.most_buffers = std::int64_t(device.memory_of(parts::buffers).peak);
  for (const auto& [purpose, bytes] : device.at_peak()) needs.on_top[purpose] += bytes;
  for (const auto& [purpose, bytes] : device.live()) needs.on_top[purpose] -= bytes;
  std::erase_if(needs.on_top, [](const auto& use) { return use.second == 0; });
}

bool is_legal(const config::Config& config) {
  try {
    check_steps(config, {"", {}});
    return true;
  } catch (const Error&) {
    return false;
  }
}

// Answers with all counts of some steps in turn, those of the first twice.
class Replay {
 public:
  explicit Replay(const std::vector<RecordedStep>& steps) {
    if (!steps.empty()) add(steps[0]);
    for (const RecordedStep& step : steps) add(step);
  }
  std::vector<std::int64_t> next(std::int64_t size) {
    require(at_ < counts_.size(), "the recorded steps end after ", at_, " reads of counts; ",
            wanted);
    const std::vector<std::int64_t>& found = *counts_[at_++];
    require(std::ssize(found) == size, "recorded were ", found.size(), " counts, asked for are ",
            size, "; ", wanted);
    return found;
  }
  void finish() const {
    require(at_ == counts_.size(), "of ", counts_.size(), " recorded reads of counts ", at_,
            " were asked for; ", wanted);
  }

 private:
  static constexpr const char* wanted =
      "wanted those of a run with this model, layout and these micro-batches";
  void add(const RecordedStep& step) {
    for (const auto& counts : step.counts) counts_.push_back(&counts);
  }

  std::vector<const std::vector<std::int64_t>*> counts_;
  std::size_t at_ = 0;
};

RankNeeds needs_of_rank(const config::Config& config, int rank,
                        const std::vector<RecordedStep>& recorded = {}) {
  FakeCommunicator alone(rank, int(config.parallel().ranks()));
  Replay replay(recorded);
  RecordedCounts counts;
  if (!recorded.empty()) counts = [&](std::int64_t size) { return replay.next(size); };
  Device device(make_meta_backend(make_cpu_backend(int(config.parallel().threads())), counts));
  std::vector<std::int64_t> steps;
  for (const RecordedStep& step : recorded) {
    require(step.step >= 1 && step.step <= config.train().steps(), "step ", step.step,
            " was recorded, but train.steps=", config.train().steps());
    steps.push_back(step.step - 1);
  }
  RankNeeds needs = needs_of_step(config, alone, device, steps);
  replay.finish();
  return needs;
}

bool fits(const config::Config& config, std::int64_t memory) {
  return std::ranges::all_of(ranks_that_differ(config),
                             [&](int rank) { return needs_of_rank(config, rank).peak <= memory; });
}

}  // namespace

std::int64_t RankNeeds::buffers() const {
  std::int64_t sum = 0;
  for (const auto& [purpose, bytes] : on_top)
    if (purpose.part == parts::buffers) sum += bytes;
  return sum;
}

std::int64_t RankNeeds::activations() const {
  return peak - held() - buffers();
}

RankNeeds needs_of_step(const config::Config& config, Communicator& communicator, Device& device,
                        std::vector<std::int64_t> steps) {
  if (steps.empty()) steps.push_back(config.train().steps() - 1);
  std::vector<int> all(std::size_t(communicator.size()));
  std::iota(all.begin(), all.end(), 0);
  const Mesh mesh(communicator, device, layout_of(config), all);
  Learner learner(config, mesh,
                  [&](std::int64_t, std::int64_t count) { return tokens_of(config, count); });
  RankNeeds needs{communicator.rank(), mesh.coordinate(axes::pp),
                  std::ssize(learner.model().layers())};
  take_step(config, mesh, learner, steps[0]);
  needs.traffic = communicator.traffic();
  needs.flops = device.flops();
  for (const std::int64_t step : steps) take_step(config, mesh, learner, step);
  learner.gradients().wait_for_values();
  learner.balance().clear();
  needs.parameters = parameters_of(learner);
  if (config.checkpoint().every() > 0 && config.checkpoint().async())
    needs.saved = written_bytes(learner.state());
  count_memory(device, needs);
  return needs;
}

std::vector<int> ranks_that_differ(const config::Config& config) {
  const std::int64_t tp = config.parallel().tp(), pp = config.parallel().pp();
  const std::int64_t first = config.model().vocabulary() % tp == 0 ? 0 : tp - 1;
  std::vector<int> ranks;
  for (std::int64_t stage = 0; stage < pp; ++stage)
    ranks.push_back(int(stage * (config.parallel().ranks() / pp) + first));
  return ranks;
}

std::vector<RankNeeds> needs_of_stages(const config::Config& config) {
  std::vector<RankNeeds> all;
  for (const int rank : ranks_that_differ(config)) all.push_back(needs_of_rank(config, rank));
  return all;
}

std::vector<RankNeeds> needs_of_stages(const config::Config& config,
                                       const std::vector<std::vector<RecordedStep>>& recorded) {
  std::vector<RankNeeds> worst(std::size_t(config.parallel().pp()));
  for (std::size_t rank = 0; rank < recorded.size(); ++rank) {
    RankNeeds needs = needs_of_rank(config, int(rank), recorded[rank]);
    RankNeeds& most = worst[std::size_t(needs.stage)];
    if (needs.peak > most.peak) most = std::move(needs);
  }
  return worst;
}

std::int64_t largest_micro_batch(const config::Config& config, std::int64_t memory) {
  config::Config trial = config;
  const std::int64_t most = config.train().global_batch() / data_parallel_size(config);
  std::vector<std::int64_t> sizes;
  for (std::int64_t size = 1; size <= most; ++size) {
    trial.mutable_train()->set_micro_batch(size);
    if (is_legal(trial)) sizes.push_back(size);
  }
  const auto beyond = std::ranges::partition_point(sizes, [&](std::int64_t size) {
    trial.mutable_train()->set_micro_batch(size);
    return fits(trial, memory);
  });
  return beyond == sizes.begin() ? 0 : *std::prev(beyond);
}

}  // namespace pf
