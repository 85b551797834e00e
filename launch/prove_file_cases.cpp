#include "launch/prove_file_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>

#include "core/error.h"
#include "core/philox.h"
#include "launch/config_rules.h"
#include "launch/dice.h"
#include "launch/prove_file.h"
#include "launch/prove_layouts.h"
#include "launch/prove_stages.h"
#include "models/transformer.h"

namespace pf {
namespace {

constexpr std::uint32_t file_stream = 6;
constexpr int most_draws = 2000;

class FileCases {
 public:
  FileCases(const std::string& path, const std::vector<std::string>& overrides, std::uint64_t seed)
      : path_(path), file_(file_to_draw(path, overrides)), seed_(seed) {}

  config::Config of(std::int64_t number) const;

 private:
  bool is_free(const char* key) const { return !file_.given.contains(key); }
  void draw_axes(config::Parallel& parallel, Dice& dice) const;
  void draw_stages(config::Config& config, Dice& dice) const;
  void draw_ways(config::Config& config, Dice& dice) const;
  void draw_batch(config::Config& config, Dice& dice) const;

  std::string path_;
  FileToProve file_;
  std::uint64_t seed_;
};

void FileCases::draw_axes(config::Parallel& parallel, Dice& dice) const {
  if (is_free("parallel.ranks")) parallel.set_ranks(2 + dice.below(7));
  const auto part = [&](std::int64_t of) {  // 1 where fixed axes have more ranks than there are
    return dice.one_of(divisors(std::max<std::int64_t>(1, of)));
  };
  if (is_free("parallel.pp")) parallel.set_pp(part(parallel.ranks()));
  const std::int64_t ranks = parallel.ranks() / parallel.pp();
  if (is_free("parallel.tp")) parallel.set_tp(part(ranks));
  if (is_free("parallel.cp")) parallel.set_cp(part(ranks / parallel.tp()));
  if (is_free("parallel.etp")) parallel.set_etp(part(ranks));
  if (is_free("parallel.ep")) parallel.set_ep(part(ranks / parallel.etp()));
}

void FileCases::draw_stages(config::Config& config, Dice& dice) const {
  config::Parallel& parallel = *config.mutable_parallel();
  if (is_free("parallel.schedule")) parallel.set_schedule(dice.one_of(all_schedules()));
  if (is_free("parallel.chunks")) parallel.set_chunks(usual_chunks(parallel.schedule()));
  const std::int64_t parts = parallel.pp() * parallel.chunks(), layers = layers_of(config.model());
  const bool is_uneven = dice.below(2) == 0 && parts > 1 && parts < layers;
  if (is_free("parallel.stage_layers"))
    parallel.set_stage_layers(is_uneven ? uneven_stage_layers(layers, parts, dice) : "even");
}

// What ranks do otherwise with the same result.
void FileCases::draw_ways(config::Config& config, Dice& dice) const {
  config::Parallel& parallel = *config.mutable_parallel();
  if (is_free("parallel.cp_method"))
    parallel.set_cp_method(config::Parallel::CpMethod(dice.below(4)));
  if (is_free("parallel.dispatcher"))
    parallel.set_dispatcher(config::Dispatcher::Kind(dice.below(2)));
  if (is_free("parallel.zero")) parallel.set_zero(dice.below(2));
  if (is_free("parallel.zero_shard"))
    parallel.set_zero_shard(parallel.zero() > 0 ? 2 * dice.below(2) : 0);
  if (is_free("train.recompute"))
    config.mutable_train()->set_recompute(config::Train::Recompute(dice.below(2)));
}

void FileCases::draw_batch(config::Config& config, Dice& dice) const {
  config::Train& train = *config.mutable_train();
  if (is_free("train.micro_batch")) train.set_micro_batch(1 + dice.below(3));
  const config::Parallel& parallel = config.parallel();
  const std::int64_t dp = data_parallel_size(config);
  const std::int64_t least = 1 + dice.below(2 + parallel.pp());
  const std::int64_t count = dp * micro_batches_of(parallel, least);
  const std::int64_t missing = train.micro_batch() > 1 && dice.below(3) == 0 ? 1 : 0;
  if (is_free("train.global_batch")) train.set_global_batch(count * train.micro_batch() - missing);
  if (is_free("data.across_documents"))
    config.mutable_data()->set_across_documents(dice.below(2) == 0);
  if (is_free("run.seed")) config.mutable_run()->set_seed(dice.below(std::int64_t{1} << 31));
  if (config.model().has_moe() && counts_groups(config.model().moe().balance()) && !file_.has_group)
    config.mutable_model()->mutable_moe()->mutable_balance()->set_group(dp);
}

config::Config FileCases::of(std::int64_t number) const {
  Dice dice(Random{seed_, file_stream + std::uint32_t(number >> 32) * 8, std::uint32_t(number)});
  std::string why;
  for (int i = 0; i < most_draws; ++i) {
    config::Config config = file_.config;
    draw_axes(*config.mutable_parallel(), dice);
    const config::Parallel& p = config.parallel();
    if (p.ranks() % (p.tp() * p.cp() * p.pp()) != 0) continue;
    draw_stages(config, dice);
    draw_ways(config, dice);
    draw_batch(config, dice);
    const std::int64_t tokens = config.data().sequence() * config.train().global_batch();
    why = tokens > most_tokens ? std::to_string(tokens) + " tokens a step" : refusal(config);
    if (why.empty()) return config;
  }
  throw Error("prove: of " + std::to_string(most_draws) + " layouts of " + path_ +
              " none is legal, the last not because of " + why);
}

std::string features_of(const config::Config& config) {
  const config::Parallel& p = config.parallel();
  const config::Train& train = config.train();
  return fmt::format(
      "{}; schedule {}, chunks {}, stage_layers {}, cp_method {}, dispatcher {}, zero {}, "
      "zero_shard {}, micro_batch {}, global_batch {}, recompute {}, across_documents {}, seed {}",
      axes_text(config), config::Parallel::Schedule_Name(p.schedule()), p.chunks(),
      p.stage_layers(), config::Parallel::CpMethod_Name(p.cp_method()),
      config::Dispatcher::Kind_Name(p.dispatcher()), p.zero(), p.zero_shard(), train.micro_batch(),
      train.global_batch(), config::Train::Recompute_Name(train.recompute()),
      config.data().across_documents(), config.run().seed());
}

}  // namespace

Cases cases_of_file(const std::string& path, const std::vector<std::string>& overrides,
                    std::uint64_t seed) {
  const auto cases = std::make_shared<FileCases>(path, overrides, seed);
  std::string command = "pentafold prove " + path;
  for (const std::string& change : overrides) command += " '" + change + "'";
  return {"random cases of " + path, command,
          [cases](std::int64_t number) { return cases->of(number); },
          [cases](std::int64_t number) { return features_of(cases->of(number)); },
          [cases](std::int64_t first, std::int64_t count) {
            std::set<std::string> layouts;
            for (std::int64_t i = 0; i < count; ++i)
              layouts.insert(axes_text(cases->of(first + i)));
            return fmt::format("{} different layouts", layouts.size());
          }};
}

}  // namespace pf
