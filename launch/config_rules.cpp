#include "launch/config_rules.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "core/error.h"
#include "launch/config.h"
#include "launch/config_keys.h"
#include "launch/config_words.h"
#include "launch/layout_rules.h"
#include "launch/lora.h"
#include "launch/run_mesh.h"
#include "launch/text.h"
#include "models/transformer.h"

namespace pf {

namespace {

// The last one may be shorter.
std::int64_t micro_batches_in_step(const config::Train& train) {
  return (train.global_batch() + train.micro_batch() - 1) / train.micro_batch();
}

void check_run(const config::Run& run, const Places& places) {
  if (run.name().find('/') != std::string::npos)
    places.fail("run.name", "found '" + printable(run.name()) +
                                "', wanted a name without '/'; folders belong into run.folder");
}

void check_positions(const config::Config& config, const Places& places) {
  const config::Model& model = config.model();
  const std::int64_t sequence = config.data().sequence();
  const bool is_learned = model.position() == config::Model::learned;
  if (is_learned && model.max_positions() < sequence)
    places.fail("model.max_positions", "found " + text_of(model.max_positions()) +
                                           ", wanted at least data.sequence=" + text_of(sequence) +
                                           ", since positions are learned");
  if (is_learned && model.has_mla())
    places.fail("model.position", "found learned, wanted rope: model.mla has rotary parts");
  if (!model.has_rope_scaling()) return;
  const config::RopeScaling& scaling = model.rope_scaling();
  if (is_learned)
    places.fail("model.rope_scaling", "is for rotary positions; model.position is learned");
  const bool needs_original =
      scaling.kind() != config::RopeScaling::none && scaling.kind() != config::RopeScaling::linear;
  if (needs_original && scaling.original_positions() == 0)
    places.fail("model.rope_scaling.original_positions",
                "is missing; wanted the longest sequence before the frequencies were stretched");
  if (scaling.slow() >= scaling.fast())
    places.fail("model.rope_scaling.slow",
                "found " + number_in_words(scaling.slow()) +
                    ", wanted less than fast=" + number_in_words(scaling.fast()));
}

void check_model(const config::Model& model, const Places& places) {
  if (model.has_mla()) {
    check_multiple(places, "model.mla.rope_dim", model.mla().rope_dim(), 2,
                   "2, since rotary positions turn pairs");
    for (const auto& [name, is_set] : {std::pair("qkv_bias", model.qkv_bias()),
                                       {"out_bias", model.out_bias()},
                                       {"qk_norm", model.qk_norm()}})
      if (is_set)
        places.fail(std::string("model.") + name, "found true, but model.mla has none; use false");
  } else {
    check_divisor(places, "model.kv_heads", model.kv_heads(), model.heads(),
                  "model.heads=" + text_of(model.heads()));
    check_multiple(places, "model.head_dim", model.head_dim(), 2,
                   "2, since rotary positions turn pairs");
  }
  if (has_dense_layers(model) && model.ffn() == 0)
    places.fail("model.ffn",
                "is missing; wanted the inner width of the dense layers, for instance " +
                    text_of(4 * model.hidden()));
  if (model.mlp_bias() && model.activation() == config::Model::swiglu)
    places.fail("model.mlp_bias", "found true, but a SwiGLU has no biases; use false, or choose " +
                                      std::string("another model.activation"));
}

void check_router(const config::Moe& moe, const Places& places) {
  check_divisor(places, "model.moe.groups", moe.groups(), moe.experts(),
                "model.moe.experts=" + text_of(moe.experts()));
  const std::int64_t of_group = moe.experts() / moe.groups();
  const auto at_most = [&](const char* key, std::int64_t value, std::int64_t most,
                           const std::string& what) {
    if (value > most)
      places.fail(std::string("model.moe.") + key,
                  "found " + text_of(value) + ", wanted at most " + what + "=" + text_of(most));
  };
  at_most("top_k", moe.top_k(), moe.experts(), "model.moe.experts");
  at_most("top_groups", moe.top_groups(), moe.groups(), "model.moe.groups");
  at_most("group_best", moe.group_best(), of_group, "the experts of a group");
  at_most("top_k", moe.top_k(), of_group * moe.top_groups(), "the experts of top_groups groups");
  if (moe.bias_rate() > 0 && moe.router() == config::Moe::forced)
    places.fail("model.moe.bias_rate",
                "found " + number_in_words(moe.bias_rate()) + ", but choices are forced; use 0");
  if (moe.shared_gate() && moe.shared_ffn() == 0)
    places.fail("model.moe.shared_gate",
                "found true, but there is no shared expert; give model.moe.shared_ffn");
}

void check_moe(const config::Config& config, const Places& places) {
  const config::Moe& moe = config.model().moe();
  check_router(moe, places);
  if (moe.has_capacity())
    check_divisor(places, "model.moe.capacity.block", moe.capacity().block(),
                  config.data().sequence(), "data.sequence=" + text_of(config.data().sequence()));
  const std::int64_t layers = config.model().layers();
  if (moe.every() > layers)
    places.fail("model.moe.every",
                "found " + text_of(moe.every()) +
                    ", so that no layer is MoE; wanted at most model.layers=" + text_of(layers));
  if (moe.first_dense() >= layers / moe.every() * moe.every())
    places.fail("model.moe.first_dense", "found " + text_of(moe.first_dense()) +
                                             ", so that no layer is MoE; wanted less than " +
                                             text_of(layers / moe.every() * moe.every()));
}

void check_balance_group(const config::Config& config, const Places& places) {
  const config::Moe& moe = config.model().moe();
  const std::int64_t group = moe.balance().group();
  if (!counts_groups(moe.balance())) return;
  const std::int64_t dp = data_parallel_size(config);
  const std::string key = "model.moe.balance.group";
  if (group < 1 || (group % dp != 0 && dp % group != 0))
    places.fail(key, "found " + text_of(group) +
                         ", wanted a multiple or a divisor of dp=" + text_of(dp) + "; nearest: " +
                         (group < dp ? nearest_divisors(dp, std::max<std::int64_t>(group, 1))
                                     : nearest_multiples(dp, group)));
  const std::int64_t micro_batches = micro_batches_in_step(config.train());
  check_divisor(places, key, group, micro_batches,
                "the " + text_of(micro_batches) + " micro-batches in a step (train.global_batch=" +
                    text_of(config.train().global_batch()) +
                    ", train.micro_batch=" + text_of(config.train().micro_batch()) + ")");
  if (!config.train().has_ramp()) return;
  const std::int64_t unit = group * config.train().micro_batch();
  const std::string rule = "model.moe.balance.group x train.micro_batch = " + text_of(group) +
                           " x " + text_of(config.train().micro_batch()) + " = " + text_of(unit);
  check_multiple(places, "train.ramp.start", config.train().ramp().start(), unit, rule);
  check_multiple(places, "train.ramp.by", config.train().ramp().by(), unit, rule);
}

void check_sources(const config::Data& data, const Places& places) {
  std::map<std::string, std::string> place_of;
  for (int i = 0; i < data.sources_size(); ++i) {
    const std::string key = "data.sources[" + std::to_string(i) + "].name";
    const std::string& name = data.sources(i).name();
    const auto [earlier, is_new] = place_of.emplace(name, places.of(key));
    if (!is_new)
      places.fail(key, "found '" + printable(name) + "' again (first at " + earlier->second +
                           "); each source needs its own name");
  }
}

// "dp=2 (ranks / (tp cp pp) = 4 / (2 x 1 x 1))"
std::string replicas_in_words(const config::Config& config) {
  const config::Parallel& parallel = config.parallel();
  return "dp=" + text_of(data_parallel_size(config)) +
         " (ranks / (tp cp pp) = " + text_of(parallel.ranks()) + " / (" + text_of(parallel.tp()) +
         " x " + text_of(parallel.cp()) + " x " + text_of(parallel.pp()) + "))";
}

// The numbers of ranks near that of a layout that does not divide the batch.
std::string ranks_for_batch(const config::Config& config) {
  constexpr std::int64_t most_ranks = 1 << 20;
  const config::Parallel& parallel = config.parallel();
  const std::int64_t batch = micro_batches_in_step(config.train());
  const std::int64_t of_replica = parallel.tp() * parallel.cp() * parallel.pp();
  const std::int64_t of_experts = parallel.etp() * parallel.ep() * parallel.pp();
  const auto is_legal = [&](std::int64_t dp) {
    return batch % dp == 0 && dp * of_replica % of_experts == 0;
  };
  const std::string ranks =
      nearest_legal(data_parallel_size(config), most_ranks / of_replica, is_legal, of_replica);
  return ranks.empty() ? "" : "; or keep it and set parallel.ranks to " + ranks;
}

void check_batch(const config::Config& config, const Places& places) {
  const config::Train& train = config.train();
  const std::int64_t dp = data_parallel_size(config), size = train.micro_batch();
  const std::int64_t count = micro_batches_in_step(train);
  if (count % dp != 0) {
    const std::int64_t fewer = count / dp * dp;
    places.fail("train.global_batch",
                "found " + text_of(train.global_batch()) + ", in micro-batches of " +
                    text_of(size) + " (train.micro_batch) " + text_of(count) +
                    ", wanted a multiple of " + replicas_in_words(config) + "; nearest: " +
                    either(fewer * size, (fewer + dp - 1) * size + 1) + ranks_for_batch(config));
  }
  if (!train.has_ramp()) return;
  const std::string rule = "train.micro_batch x dp = " + text_of(size) + " x " + text_of(dp) +
                           " = " + text_of(size * dp);
  check_multiple(places, "train.ramp.start", train.ramp().start(), size * dp, rule);
  check_multiple(places, "train.ramp.by", train.ramp().by(), size * dp, rule);
  if (train.ramp().start() > train.global_batch())
    places.fail("train.ramp.start",
                "found " + text_of(train.ramp().start()) +
                    ", wanted at most train.global_batch=" + text_of(train.global_batch()));
}

void check_recompute(const config::Config& config, const Places& places) {
  const std::int64_t found = config.train().recompute_layers(), most = config.model().layers();
  if (found > 0 && config.train().recompute() == config::Train::none)
    places.fail("train.recompute_layers",
                "found " + text_of(found) +
                    ", but with train.recompute=none nothing is computed again; use 0");
  if (found > most)
    places.fail("train.recompute_layers",
                "found " + text_of(found) + ", wanted at most model.layers=" + text_of(most));
}

void check_cluster(const config::Cluster& cluster, const Places& places) {
  if (cluster.memory() != 0 && cluster.memory() < (1 << 20))
    places.fail("cluster.memory", "found " + text_of(cluster.memory()) +
                                      " bytes, wanted at least 1MiB; give a unit, as in 80GiB");
}

// The batches of a ramp are tried too.
void check_schedule(const config::Config& config, const Places& places) {
  const config::Train& train = config.train();
  const std::int64_t dp = data_parallel_size(config);
  std::set<std::int64_t> batches{train.global_batch()};
  if (train.has_ramp()) batches.insert({train.ramp().start(), train.ramp().by()});
  for (const std::int64_t batch : batches) {
    const std::int64_t size = train.micro_batch(), all = (batch + size - 1) / size;
    const ScheduleShape shape = shape_of(config, int(all / dp));
    if (const std::string wrong = impossibility(shape); !wrong.empty())
      places.fail("parallel.schedule", wrong);
    const std::int64_t together = steps_together(config);
    if (together == 1) continue;  // a large step's schedule is made when it runs
    try {
      schedule_of_step(shape, together);
    } catch (const Error& error) {
      places.fail("parallel.schedule", error.what());
    }
  }
}

// What fits a pattern, and how wide it is, only the model knows: it is made without values.
void check_trained(const config::Config& config, const Places& places) {
  const config::Train& train = config.train();
  if (!train.has_lora() && train.freeze().empty()) return;
  if (train.has_lora() && !train.freeze().empty())
    places.fail("train.freeze", "found '" + printable(train.freeze()) +
                                    "', but train.lora freezes all but what it adds; leave one "
                                    "of them out");
  model_size(config.model(), config.data().sequence(), [&](Transformer& model) {
    choose_trained(
        train, [&](const Visitor& visitor) { model.visit(visitor); },
        [&](const std::string& key, const std::string& text) { places.fail(key, text); });
  });
}

}  // namespace

void check_rules(const config::Config& config, const Places& places) {
  check_run(config.run(), places);
  check_model(config.model(), places);
  check_positions(config, places);
  check_sources(config.data(), places);
  if (config.model().has_moe()) check_moe(config, places);
  check_layout(config, places);
  check_recompute(config, places);
  check_cluster(config.cluster(), places);
  check_trained(config, places);
}

void check_steps(const config::Config& config, const Places& places) {
  check_batch(config, places);
  if (config.model().has_moe()) check_balance_group(config, places);
  check_schedule(config, places);
}

bool has_dense_layers(const config::Model& model) {
  return !model.has_moe() || model.moe().every() > 1 || model.moe().first_dense() > 0;
}

bool counts_groups(const config::Balance& balance) {
  return balance.kind() == config::Balance::global || balance.kind() == config::Balance::mixed;
}

}  // namespace pf
