#include "launch/rank_limits.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/error.h"
#include "launch/lora.h"
#include "launch/process.h"
#include "launch/run_mesh.h"
#include "launch/text.h"
#include "models/transformer.h"
#include "optim/optimizer.h"
#include "parallel/communicator.h"
#include "parallel/gradients.h"
#include "parallel/mesh.h"

namespace pf {
namespace {

// Of a rank that is a thread: its stack, communicator and places in groups; 390 KB were measured
// with 500 ranks, more with more.
constexpr std::int64_t bytes_of_thread = 256 << 10;

constexpr int never = 4;  // a stage of ZeRO that there is not

// Bytes that a rank holds between two steps in the smallest world with the layout's other axes.
struct Holding {
  int ranks = 1;                // of that world
  std::int64_t replicated = 0;  // what each rank has: weights, packed copies, gradients
  std::int64_t divided = 0;     // what replicas divide: the optimizer's state, and more (zero)

  std::int64_t bytes(const config::Parallel& parallel, std::int64_t of_ranks) const;
};

// At least: experts have fewer replicas than the rest, so that fewer ranks divide their state.
std::int64_t Holding::bytes(const config::Parallel& parallel, std::int64_t of_ranks) const {
  std::int64_t owners = parallel.zero() == 0 ? 1 : of_ranks / ranks;
  if (parallel.zero_shard() > 0) owners = std::min(owners, parallel.zero_shard());
  return replicated + divided / std::max<std::int64_t>(owners, 1);
}

int smallest_world(const config::Parallel& p) {
  return int(std::lcm(p.tp() * p.cp() * p.pp(), p.etp() * p.ep() * p.pp()));
}

// Of the first rank of a stage.
Holding holding_of(const config::Config& config, std::int64_t stage) {
  const config::Parallel& p = config.parallel();
  const int ranks = smallest_world(p);
  std::vector<int> all(static_cast<std::size_t>(ranks));
  std::iota(all.begin(), all.end(), 0);
  FakeCommunicator alone(int(stage * (ranks / p.pp())), ranks);
  Device device(make_meta_backend(make_cpu_backend(1)));
  const Mesh mesh(alone, device, layout_of(config, ranks), all);
  const DType type = type_of(config.run().precision());
  Transformer model(config.model(), options_of(config, mesh), mesh);
  const auto visit = [&](const Visitor& visitor) { model.visit(visitor); };
  choose_trained(config.train(), visit);
  const auto live = [&] { return std::int64_t(device.memory().live); };
  model.initialise(0);
  Holding holding{ranks};
  // What was made since then, on each rank or divided from some stage of ZeRO on.
  std::int64_t before = 0;
  const auto add = [&](std::int64_t bytes, int divided_from) {
    (p.zero() >= divided_from ? holding.divided : holding.replicated) += bytes;
    before = live();
  };
  std::int64_t trained = 0;
  visit({.parameter = [&](Parameter& w) {
    if (w.is_trainable()) trained += w.size() * std::int64_t(size_of(w.type()));
  }});
  add(live() - trained, never);
  add(trained, 3);
  Gradients gradients(mesh, trained_parameters(model));
  add(live() - before, 2);
  const auto optimizer = make_optimizer(config.optimizer(), mesh, gradients.parts(), visit);
  add(live() - before, 1);
  if (p.zero() == 3) return holding;  // of packed copies, those of a layer in use
  visit({.pack = [&](Pack& pack) { pack.packed(type); }});
  add(live() - before, never);
  return holding;
}

// Of all stages.
Holding largest_holding(const config::Config& config) {
  std::vector<Holding> stages;
  for (std::int64_t stage = 0; stage < config.parallel().pp(); ++stage)
    stages.push_back(holding_of(config, stage));
  return *std::ranges::max_element(stages, {}, [&](const Holding& holding) {
    return holding.bytes(config.parallel(), config.parallel().ranks());
  });
}

// The largest multiple of `unit` up to `most` that fits, if those that are smaller do too; else 0.
std::int64_t largest(std::int64_t most, std::int64_t unit,
                     const std::function<bool(std::int64_t)>& fits) {
  std::int64_t low = 0, high = most / unit;
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (fits(middle * unit))
      low = middle;
    else
      high = middle - 1;
  }
  return low * unit;
}

std::string most_in_words(std::int64_t ranks) {
  return ranks == 0 ? "; not one fits" : "; at most " + std::to_string(ranks) + " fit";
}

void check_memory(const config::Config& config, const Machine& machine) {
  const std::int64_t all = config.parallel().ranks();
  const Holding holding = largest_holding(config);
  const std::int64_t asked = config.cluster().memory() > 0
                                 ? config.cluster().memory()
                                 : std::numeric_limits<std::int64_t>::max();
  const auto needs = [&](std::int64_t ranks) {
    return holding.bytes(config.parallel(), ranks) + (machine.has_processes ? 0 : bytes_of_thread);
  };
  const std::int64_t need = needs(all), share = std::min(asked, machine.memory / machine.ranks);
  if (need <= share) return;
  std::int64_t most = machine.has_processes ? machine.memory / need
                                            : largest(all, holding.ranks, [&](std::int64_t ranks) {
                                                return needs(ranks) <= machine.memory / ranks;
                                              });
  if (most > 0 && needs(machine.has_processes ? all : most) > asked) most = 0;
  require(false, "found ", all, "; a rank needs at least ", bytes_in_words(need),
          " for weights, gradients and optimizer, and has ", bytes_in_words(share),
          share == asked ? " (cluster.memory)" : ", its share of " + bytes_in_words(machine.memory),
          most_in_words(most), machine.has_processes && most > 0 ? " on this machine" : "");
}

}  // namespace

Machine this_machine(const config::Config& config, const Mpi* mpi) {
  return {mpi != nullptr ? mpi->ranks_here() : config.parallel().ranks(), memory_limit(),
          thread_limit(), mpi != nullptr};
}

std::size_t memory_of_rank(const config::Config& config, const Machine& machine) {
  if (config.cluster().memory() > 0) return std::size_t(config.cluster().memory());
  return std::size_t(machine.memory / machine.ranks);
}

void check_ranks(const config::Config& config, const Machine& machine) {
  const std::int64_t threads = config.parallel().threads();
  require(machine.ranks * threads <= machine.threads, "found ", machine.ranks,
          " on this machine, each with parallel.threads=", threads, "; it can start ",
          machine.threads, " threads", most_in_words(machine.threads / threads));
  check_memory(config, machine);
}

}  // namespace pf
