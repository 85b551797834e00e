#include "launch/prove_case.h"

#include <fmt/format.h>

#include <set>

#include "core/error.h"
#include "core/philox.h"
#include "launch/lora.h"
#include "launch/prove_checkpoint.h"
#include "launch/prove_optimizers.h"
#include "launch/prove_stages.h"
#include "launch/run_mesh.h"
#include "models/transformer.h"

namespace pf {
namespace {

// Documents of three tokens and more. No two of a sequence begin with the same token: attention
// would make the same of both, and rounding would decide which of them a capacity keeps.
std::vector<std::int64_t> random_starts(const Samples& samples, std::uint64_t seed) {
  const Random random{seed, 98, 0};
  std::vector<std::int64_t> starts;
  for (std::int64_t s = 0; s < samples.count; ++s) {
    const std::int64_t begin = s * samples.length;
    std::set<std::int32_t> firsts{samples.ids[std::size_t(begin)]};
    std::int64_t last = begin;
    for (std::int64_t t = begin + 3; t < begin + samples.length; ++t) {
      if (t < last + 3 || random.words(std::uint64_t(t))[0] % 6 != 0) continue;
      if (!firsts.insert(samples.ids[std::size_t(t)]).second) continue;
      starts.push_back(t);
      last = t;
    }
  }
  return starts;
}

// The names of the parameters that training leaves alone, and of those that get adapters.
void adapt_and_freeze(Recipe& recipe, const config::Config& config) {
  const config::Train& train = config.train();
  if (!train.has_lora() && train.freeze().empty()) return;
  model_size(config.model(), config.data().sequence(), [&](Transformer& model) {
    std::set<std::string> free;
    model.visit({.parameter = [&](Parameter& w) {
      if (w.is_trainable()) free.insert(w.name());
    }});
    choose_trained(train, [&](const Visitor& visitor) { model.visit(visitor); });
    model.visit({.parameter = [&](Parameter& w) {
      if (!train.has_lora() && !w.is_trainable() && free.contains(w.name()))
        recipe.frozen.push_back(w.name());
      if (w.adapter() != nullptr) recipe.adapted.names.push_back(w.name());
    }});
  });
  recipe.adapted.rank = train.lora().rank();
  recipe.adapted.scale = train.lora().alpha() / double(train.lora().rank());
  recipe.adapted.b_std = config.model().init_std();
}

}  // namespace

Recipe recipe_of(const config::Config& config, DType type) {
  Recipe recipe{.model = config.model(),
                .type = type,
                .micro_batch = config.train().micro_batch(),
                .group = balance_group(config, data_parallel_size(config)),
                .head_chunk = config.train().head_chunk(),
                .cp_method = CpMethod(config.parallel().cp_method()),
                .dispatcher = Dispatcher(config.parallel().dispatcher()),
                .recompute = recompute_of(config.train()),
                .schedule = schedule_of(config),
                .chunks = int(config.parallel().chunks()),
                .seed = std::uint64_t(config.run().seed()),
                .sharing = sharing_of(config)};
  for (const LayerRange& range : stages_of(config))
    recipe.stage_layers.push_back(std::int64_t(range.end - range.begin));
  adapt_and_freeze(recipe, config);
  return recipe;
}

Samples samples_of(const config::Config& config) {
  const auto seed = std::uint64_t(config.run().seed());
  Samples samples = uneven_samples(config.train().global_batch(), config.data().sequence(),
                                   config.model().vocabulary(), seed);
  if (!config.data().across_documents()) samples.starts = random_starts(samples, seed);
  return samples;
}

config::Config on_one_rank(config::Config config) {
  config::Parallel& parallel = *config.mutable_parallel();
  parallel.set_ranks(1);
  parallel.set_tp(1);
  parallel.set_cp(1);
  parallel.set_ep(1);
  parallel.set_etp(1);
  set_single_stage(parallel);
  return config;
}

Descent descend(const config::Config& config, DType type, int steps) {
  return descend(recipe_of(config, type), samples_of(config), layout_of(config), steps);
}

bool Proof::is_beyond(const Difference& rounding) const {
  return !holds() && (!error.empty() || !(worst.distance <= 10 * rounding.distance));
}

std::string Proof::text() const {
  if (!error.empty()) return "ended: " + error;
  return fmt::format("{:7.1e}  {}", worst.distance, worst.where);
}

Proof prove(const config::Config& config, const Descent& one_rank) {
  try {
    return {difference(one_rank, descend(config)), ""};
  } catch (const Error& error) {
    return {{}, error.what()};
  }
}

std::string rounding_text(const Proof& proof, const Difference& rounding) {
  return fmt::format("one rank with other last bits in its weights: {:.1e} from itself{}",
                     rounding.distance,
                     proof.is_beyond(rounding) ? "" : ", so this may be rounding alone");
}

Difference rounding_of(const config::Config& config, const Descent& one_rank) {
  const config::Config alone = on_one_rank(config);
  Recipe nudged = recipe_of(alone);
  nudged.is_nudged = true;
  return difference(one_rank, descend(nudged, samples_of(alone), layout_of(alone)));
}

Proof prove(const config::Config& config) {
  const config::Config alone = on_one_rank(config);
  Descent one_rank;
  try {
    one_rank = descend(alone);
  } catch (const Error& error) {
    return {{}, std::string("one rank: ") + error.what()};
  }
  Proof proof = prove(config, one_rank);
  if (!proof.holds()) return proof;
  try {
    for (const config::Optimizer::Kind kind : proven_optimizers) {
      const Difference found = difference(optimized(alone, kind), optimized(config, kind));
      proof.worst.add(found.distance, fmt::format("{}'s weights {}", name_of(kind), found.where));
    }
  } catch (const Error& error) {
    proof.error = std::string("optimizers: ") + error.what();
  }
  if (!proof.holds() || config.checkpoint().every() == 0) return proof;
  const Proof of_files = prove_going_on(config, one_rank);
  proof.worst.add(of_files.worst.distance, of_files.worst.where);
  if (!of_files.error.empty()) proof.error = "checkpoints: " + of_files.error;
  return proof;
}

}  // namespace pf
