#include "launch/config_rules.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "launch/config.h"
#include "launch/config_keys.h"
#include "models/context_parallel.h"

namespace pf {

namespace {

std::string text_of(std::int64_t value) {
  return std::to_string(value);
}

// "8 or 16": the legal values on both sides of one that is not.
std::string either(std::int64_t below, std::int64_t above) {
  if (below < 1) return text_of(above);
  return text_of(below) + " or " + text_of(above);
}

std::string nearest_multiples(std::int64_t of, std::int64_t value) {
  return either(value / of * of, (value / of + 1) * of);
}

std::string nearest_divisors(std::int64_t of, std::int64_t value) {
  if (value > of) return text_of(of);
  std::int64_t below = value, above = value;
  while (of % below != 0) --below;
  while (of % above != 0) ++above;
  return either(below, above);
}

void check_multiple(const Places& places, const std::string& key, std::int64_t value,
                    std::int64_t of, const std::string& rule) {
  if (value % of == 0) return;
  places.fail(key, "found " + text_of(value) + ", wanted a multiple of " + rule +
                       "; nearest: " + nearest_multiples(of, value));
}

void check_divisor(const Places& places, const std::string& key, std::int64_t value,
                   std::int64_t of, const std::string& rule) {
  if (of % value == 0) return;
  places.fail(key, "found " + text_of(value) + ", wanted a divisor of " + rule +
                       "; nearest: " + nearest_divisors(of, value));
}

// The last one may be shorter.
std::int64_t micro_batches_in_step(const config::Train& train) {
  return (train.global_batch() + train.micro_batch() - 1) / train.micro_batch();
}

void check_run(const config::Run& run, const Places& places) {
  if (run.name().find('/') != std::string::npos)
    places.fail("run.name", "found '" + run.name() +
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

bool has_dense_layers(const config::Model& model) {
  return !model.has_moe() || model.moe().every() > 1 || model.moe().first_dense() > 0;
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
      places.fail(key, "found '" + name + "' again (first at " + earlier->second +
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

void check_batch(const config::Config& config, const Places& places) {
  const config::Train& train = config.train();
  const std::int64_t dp = data_parallel_size(config), size = train.micro_batch();
  const std::int64_t count = micro_batches_in_step(train);
  if (count % dp != 0) {
    const std::int64_t fewer = count / dp * dp;
    places.fail("train.global_batch",
                "found " + text_of(train.global_batch()) + ", in micro-batches of " +
                    text_of(size) + " (train.micro_batch) " + text_of(count) +
                    ", wanted a multiple of " + replicas_in_words(config) +
                    "; nearest: " + either(fewer * size, (fewer + dp - 1) * size + 1));
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

void check_experts(const config::Config& config, const Places& places) {
  const config::Parallel& parallel = config.parallel();
  const bool has_moe = config.model().has_moe();
  if (!has_moe && parallel.ep() > 1)
    places.fail("parallel.ep", "found " + text_of(parallel.ep()) +
                                   ", but there are no experts to share: model.moe is missing; "
                                   "use 1");
  if (!has_moe && parallel.etp() > 1)
    places.fail("parallel.etp", "found " + text_of(parallel.etp()) +
                                    ", but there are no experts to cut: model.moe is missing; "
                                    "use 1");
  if (has_moe)
    check_divisor(places, "parallel.ep", parallel.ep(), config.model().moe().experts(),
                  "model.moe.experts=" + text_of(config.model().moe().experts()));
}

// Of the model, what tp and etp cut.
void check_widths(const config::Config& config, const Places& places) {
  const config::Model& model = config.model();
  const std::int64_t tp = config.parallel().tp(), etp = config.parallel().etp();
  const std::string of_tp = "parallel.tp=" + text_of(tp);
  check_multiple(places, "model.heads", model.heads(), tp, of_tp);
  const std::int64_t kv_heads = model.kv_heads();
  if (!model.has_mla() && kv_heads % tp != 0 && tp % kv_heads != 0)
    places.fail("model.kv_heads",
                "found " + text_of(kv_heads) + ", wanted a multiple or a divisor of " + of_tp);
  if (has_dense_layers(model)) check_multiple(places, "model.ffn", model.ffn(), tp, of_tp);
  if (model.vocabulary() < tp)
    places.fail("model.vocabulary",
                "found " + text_of(model.vocabulary()) + ", wanted at least " + of_tp);
  if (!model.has_moe()) return;
  check_multiple(places, "model.moe.shared_ffn", model.moe().shared_ffn(), tp, of_tp);
  check_multiple(places, "model.moe.ffn", model.moe().ffn(), etp, "parallel.etp=" + text_of(etp));
}

// Tokens are cut over cp in chunks, and each rank's over tp between the blocks of a layer.
void check_tokens(const config::Config& config, const Places& places) {
  const config::Parallel& parallel = config.parallel();
  const std::int64_t tp = parallel.tp(), cp = parallel.cp(), length = config.data().sequence();
  const std::int64_t unit = length_unit(tp, cp);
  check_multiple(places, "data.sequence", length, unit,
                 text_of(unit) + ", since tp x cp = " + text_of(tp) + " x " + text_of(cp) +
                     (cp > 1 ? " ranks and 2 cp chunks share it" : " ranks share it"));
  if (!config.model().has_moe() || !config.model().moe().has_capacity()) return;
  const std::int64_t most = std::gcd(chunk_of(length, cp), length / (tp * cp));
  check_divisor(places, "model.moe.capacity.block", config.model().moe().capacity().block(), most,
                text_of(most) + ", so that tp x cp = " + text_of(tp) + " x " + text_of(cp) +
                    " cuts no block");
}

void check_zero(const config::Config& config, const Places& places) {
  const config::Parallel& parallel = config.parallel();
  if (parallel.zero_shard() == 0) return;
  if (parallel.zero() == 0)
    places.fail("parallel.zero_shard", "found " + text_of(parallel.zero_shard()) +
                                           ", but with parallel.zero=0 nothing is shared; use 0");
  const std::int64_t dp = data_parallel_size(config);
  check_divisor(places, "parallel.zero_shard", parallel.zero_shard(), dp, "dp=" + text_of(dp));
}

void check_cluster(const config::Cluster& cluster, const Places& places) {
  if (cluster.memory() != 0 && cluster.memory() < (1 << 20))
    places.fail("cluster.memory", "found " + text_of(cluster.memory()) +
                                      " bytes, wanted at least 1MiB; give a unit, as in 80GiB");
}

}  // namespace

void check_layout(const config::Config& config, const Places& places) {
  const config::Parallel& parallel = config.parallel();
  const auto product = [&](const std::string& names, std::int64_t a, std::int64_t b) {
    const std::int64_t all = a * b * parallel.pp();
    check_multiple(places, "parallel.ranks", parallel.ranks(), all,
                   names + " x pp = " + text_of(a) + " x " + text_of(b) + " x " +
                       text_of(parallel.pp()) + " = " + text_of(all));
  };
  product("tp x cp", parallel.tp(), parallel.cp());
  product("etp x ep", parallel.etp(), parallel.ep());
}

void check_rules(const config::Config& config, const Places& places) {
  check_run(config.run(), places);
  check_model(config.model(), places);
  check_positions(config, places);
  check_sources(config.data(), places);
  if (config.model().has_moe()) check_moe(config, places);
  check_experts(config, places);
  check_widths(config, places);
  check_tokens(config, places);
  check_zero(config, places);
  check_cluster(config.cluster(), places);
}

void check_steps(const config::Config& config, const Places& places) {
  check_batch(config, places);
  if (config.model().has_moe()) check_balance_group(config, places);
}

void check_supported(const config::Config& config, const Places& places) {
  struct Missing {
    std::string key;
    std::int64_t value;
    std::int64_t largest;
    std::string what;
  };
  const config::Parallel& parallel = config.parallel();
  const std::array<Missing, 3> missing{{
      {"parallel.pp", parallel.pp(), 1, "pipeline parallelism"},
      {"parallel.zero", parallel.zero(), 1, "sharing gradients or weights (ZeRO 2 and 3)"},
      {"parallel.chunks", parallel.chunks(), 1, "more than one stage a rank"},
  }};
  for (const Missing& part : missing) {
    if (part.value > part.largest)
      places.fail(part.key, "found " + text_of(part.value) + ", but " + part.what +
                                " is not in this version yet; use " + text_of(part.largest));
  }
  if (parallel.cp() > 1 && parallel.cp_method() != config::Parallel::all_gather)
    places.fail("parallel.cp_method", "found " +
                                          config::Parallel::CpMethod_Name(parallel.cp_method()) +
                                          ", which is not in this version yet; use all_gather");
  if (config.cluster().device() != "cpu")
    places.fail("cluster.device", "found '" + config.cluster().device() +
                                      "', but training on it is not in this version yet; use cpu");
}

bool counts_groups(const config::Balance& balance) {
  return balance.kind() == config::Balance::global || balance.kind() == config::Balance::mixed;
}

}  // namespace pf
