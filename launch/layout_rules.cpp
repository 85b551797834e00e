#include "launch/layout_rules.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/config.h"
#include "launch/config_rules.h"
#include "launch/config_words.h"
#include "launch/run_mesh.h"
#include "models/attend.h"
#include "models/context_parallel.h"

namespace pf {
namespace {

// What a size has to divide, by its key.
struct Divided {
  const char* key;
  std::int64_t value;
};

bool divides(std::int64_t size, const std::vector<Divided>& all) {
  return std::ranges::all_of(all, [&](const Divided& of) { return of.value % size == 0; });
}

bool fits_kv_heads(std::int64_t tp, std::int64_t kv_heads) {
  return tp % kv_heads == 0 || kv_heads % tp == 0;
}

// The vocabulary need not divide.
void check_tp(const config::Config& config, const Places& places) {
  const config::Model& model = config.model();
  const std::int64_t tp = config.parallel().tp();
  std::vector<Divided> cut{{"model.heads", model.heads()}};
  if (has_dense_layers(model)) cut.push_back({"model.ffn", model.ffn()});
  if (model.moe().shared_ffn() > 0)
    cut.push_back({"model.moe.shared_ffn", model.moe().shared_ffn()});
  const std::int64_t kv_heads = model.has_mla() ? 1 : model.kv_heads();
  const auto fail = [&](const std::string& wanted) {
    const std::string nearest = nearest_legal(tp, model.heads(), [&](std::int64_t size) {
      return divides(size, cut) && fits_kv_heads(size, kv_heads);
    });
    places.fail("parallel.tp",
                "found " + text_of(tp) + ", wanted " + wanted + "; nearest: " + nearest);
  };
  if (model.vocabulary() < tp) fail("at most model.vocabulary=" + text_of(model.vocabulary()));
  for (const Divided& of : cut)
    if (of.value % tp != 0) fail("a divisor of " + std::string(of.key) + "=" + text_of(of.value));
  if (!fits_kv_heads(tp, kv_heads))
    fail("a divisor or a multiple of model.kv_heads=" + text_of(kv_heads));
}

bool is_cp(std::int64_t size, std::int64_t sequence) {
  return size == 1 || sequence % (2 * size) == 0;
}

// Each rank has a piece of the sequence's first half and the piece opposite it, as much work as the
// others: under a causal mask late queries see more keys.
void check_cp(const config::Config& config, const Places& places) {
  const std::int64_t cp = config.parallel().cp(), sequence = config.data().sequence();
  const auto is_legal = [&](std::int64_t size) { return is_cp(size, sequence); };
  if (!is_legal(cp))
    places.fail(
        "parallel.cp",
        "found " + text_of(cp) + ", wanted 2 x cp to divide data.sequence=" + text_of(sequence) +
            "; nearest: " + nearest_legal(cp, std::max<std::int64_t>(sequence / 2, 1), is_legal));
}

// Of one tp rank.
struct Heads {
  std::int64_t queries = 1, keys = 1;
};
Heads heads_of_rank(const config::Config& config) {
  const config::Model& model = config.model();
  const std::int64_t tp = config.parallel().tp(), heads = model.heads() / tp;
  return {heads, model.has_mla() ? heads : std::max<std::int64_t>(model.kv_heads() / tp, 1)};
}

void check_ulysses(const config::Config& config, const Places& places) {
  const std::int64_t cp = config.parallel().cp();
  const Heads heads = heads_of_rank(config);
  if (heads_fit(heads.queries, heads.keys, cp)) return;
  const std::string nearest = nearest_legal(cp, heads.queries, [&](std::int64_t size) {
    return is_cp(size, config.data().sequence()) && heads_fit(heads.queries, heads.keys, size);
  });
  places.fail("parallel.cp", "found " + text_of(cp) + ", but cp_method=ulysses divides the " +
                                 text_of(heads.queries) +
                                 " heads of a tp rank, whole or in parts "
                                 "of its " +
                                 text_of(heads.keys) + " KV heads; nearest: " + nearest +
                                 ", or use cp_method=all_gather");
}

void check_two_level(const config::Config& config, const Places& places) {
  const std::int64_t cp = config.parallel().cp();
  const Heads heads = heads_of_rank(config);
  if (two_level_neighbours(heads.queries, heads.keys, cp) > 1) return;
  places.fail("parallel.cp_method", "found two_level, but no part of parallel.cp=" + text_of(cp) +
                                        " ranks can divide the " + text_of(heads.queries) +
                                        " heads and " + text_of(heads.keys) +
                                        " KV heads of a tp rank, and leave others for a ring; " +
                                        "use ring");
}

void check_cp_method(const config::Config& config, const Places& places) {
  if (config.parallel().cp() == 1) return;
  if (config.parallel().cp_method() == config::Parallel::ulysses) check_ulysses(config, places);
  if (config.parallel().cp_method() == config::Parallel::two_level) check_two_level(config, places);
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

void check_pp(const config::Config& config, const Places& places) {
  const config::Parallel& parallel = config.parallel();
  const std::int64_t chunks = parallel.chunks(), layers = layers_of(config.model());
  const std::string most = " of at most model.layers + 2=" + text_of(layers);
  if (chunks > layers)
    places.fail("parallel.chunks", "found " + text_of(chunks) + ", wanted chunks" + most);
  if (parallel.pp() * chunks > layers)
    places.fail("parallel.pp", "found " + text_of(parallel.pp()) + ", wanted pp x chunks" + most +
                                   "; nearest: " + text_of(layers / chunks));
  const bool goes_up = parallel.schedule() == config::Parallel::zbv;
  if (goes_up && chunks != 2)
    places.fail("parallel.chunks", "found " + text_of(chunks) +
                                       ", but parallel.schedule=zbv has 2 chunks on each rank; "
                                       "use 2");
  if (!goes_up && parallel.schedule() != config::Parallel::interleaved && chunks > 1)
    places.fail("parallel.chunks",
                "found " + text_of(chunks) + ", but parallel.schedule=" +
                    config::Parallel::Schedule_Name(parallel.schedule()) +
                    " has 1 chunk on each rank; use 1, or the schedule interleaved or zbv");
  try {
    stages_of(config);
  } catch (const Error& error) {
    places.fail("parallel.stage_layers", error.what());
  }
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
  if (!has_moe) return;
  const config::Moe& moe = config.model().moe();
  check_divisor(places, "parallel.ep", parallel.ep(), moe.experts(),
                "model.moe.experts=" + text_of(moe.experts()));
  check_divisor(places, "parallel.etp", parallel.etp(), moe.ffn(),
                "model.moe.ffn=" + text_of(moe.ffn()));
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

}  // namespace

void check_ranks_divide(const config::Config& config, const Places& places) {
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

void check_layout(const config::Config& config, const Places& places) {
  check_tp(config, places);
  check_cp(config, places);
  check_cp_method(config, places);
  check_tokens(config, places);
  check_pp(config, places);
  check_experts(config, places);
  check_zero(config, places);
}

void check_supported(const config::Config& config, const Places& places) {
  if (config.cluster().device() != "cpu")
    places.fail("cluster.device", "found '" + config.cluster().device() +
                                      "', but training on it is not in this version yet; use cpu");
}

}  // namespace pf
