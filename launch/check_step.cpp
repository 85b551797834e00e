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

std::int64_t live_bytes(const Device& device) {
  return std::int64_t(device.memory().live);
}

// As a trainer does, with its collectives.
void take_step(const config::Config& config, const Mesh& mesh, Learner& learner) {
  const std::vector<Statistics> statistics = learner.run(0, [](const char*) {});
  learner.gradients().finish();
  const StepStatistics sums = over_mesh(mesh, learner.model().moe_layers(), statistics, 0);
  learner.change_weights(learning_rate(config.optimizer(), 0, config.train().steps()), 1,
                         sums.expert_counts);
  largest_over_mesh(mesh, {0, 0});
}

// Of parameters that are whole on this rank, and of slices of the others.
void count_weights(Learner& learner, RankNeeds& needs) {
  const auto count = [&](std::int64_t size, DType type) {
    needs.parameters += size;
    needs.weights += size * std::int64_t(size_of(type));
  };
  learner.model().visit({.parameter = [&](Parameter& w) {
    if (w.value()) count(w.size(), w.type());
  }});
  for (const Part& part : learner.gradients().parts())
    if (part.kept_value) count(part.size(), part.kept_value.dtype());
}

bool is_legal(const config::Config& config) {
  try {
    check_steps(config, {"", {}});
    return true;
  } catch (const Error&) {
    return false;
  }
}

RankNeeds needs_of_rank(const config::Config& config, int rank) {
  FakeCommunicator alone(rank, int(config.parallel().ranks()));
  Device device(make_meta_backend(make_cpu_backend(int(config.parallel().threads()))));
  return needs_of_step(config, alone, device);
}

bool fits(const config::Config& config, std::int64_t memory) {
  return std::ranges::all_of(ranks_that_differ(config),
                             [&](int rank) { return needs_of_rank(config, rank).peak <= memory; });
}

}  // namespace

RankNeeds needs_of_step(const config::Config& config, Communicator& communicator, Device& device) {
  std::vector<int> all(std::size_t(communicator.size()));
  std::iota(all.begin(), all.end(), 0);
  const Mesh mesh(communicator, device, layout_of(config), all);
  Learner learner(config, mesh,
                  [&](std::int64_t, std::int64_t count) { return tokens_of(config, count); });
  RankNeeds needs{communicator.rank(), mesh.coordinate(axes::pp),
                  std::ssize(learner.model().layers())};
  const std::int64_t before = live_bytes(device);
  take_step(config, mesh, learner);
  needs.peak = std::int64_t(device.memory().peak);
  needs.traffic = communicator.traffic();
  learner.gradients().wait_for_values();
  learner.balance().clear();
  count_weights(learner, needs);
  needs.states = learner.state_bytes();
  needs.gradients = before - needs.weights - needs.states;
  needs.copies = live_bytes(device) - before;
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
