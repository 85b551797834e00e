#include "launch/job_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "launch/config_rules.h"
#include "launch/run_mesh.h"
#include "models/attend.h"
#include "models/context_parallel.h"
#include "models/transformer.h"

namespace pf {
namespace {

class Collector {
 public:
  explicit Collector(const config::Config& config)
      : config_(config), model_(config.model()), parallel_(config.parallel()) {}

  Facts all() {
    add_heads();
    add_widths();
    if (model_.has_moe()) add_experts();
    add_stages();
    add_tokens();
    add_batch();
    return std::move(facts_);
  }

 private:
  void add(std::string what, std::int64_t value) { facts_.emplace_back(std::move(what), value); }
  void add_order(const std::string& what, std::int64_t a, std::int64_t b) {
    add(what, a < b ? -1 : a > b ? 1 : 0);
  }
  // What ranks cut, or what cuts them.
  void add_cut(const std::string& size, std::int64_t value, const std::string& axis,
               std::int64_t ranks) {
    add(fmt::format("greatest common divisor of {} and {}", size, axis), std::gcd(value, ranks));
    add_order(fmt::format("{} beside {}", size, axis), value, ranks);
  }

  void add_heads();
  void add_widths();
  void add_experts();
  void add_stages();
  void add_tokens();
  void add_capacity();
  void add_batch();
  std::int64_t kinds_of(std::int64_t layer) const;

  const config::Config& config_;
  const config::Model& model_;
  const config::Parallel& parallel_;
  Facts facts_;
};

void Collector::add_heads() {
  const std::int64_t tp = parallel_.tp(), cp = parallel_.cp();
  const std::int64_t kv_heads = model_.has_mla() ? model_.heads() : model_.kv_heads();
  add_cut("model.heads", model_.heads(), "tp", tp);
  add_cut("model.kv_heads", kv_heads, "tp", tp);
  add("model.heads > model.kv_heads", model_.heads() > kv_heads);
  const bool divides_heads = parallel_.cp_method() == config::Parallel::ulysses ||
                             parallel_.cp_method() == config::Parallel::two_level;
  if (cp == 1 || !divides_heads) return;
  const std::int64_t queries = model_.heads() / tp, keys = std::max<std::int64_t>(kv_heads / tp, 1);
  add_cut("heads of a tp rank", queries, "cp", cp);
  add_cut("KV heads of a tp rank", keys, "cp", cp);
  add("neighbours of two_level", two_level_neighbours(queries, keys, cp));
}

void Collector::add_widths() {
  const config::Moe& moe = model_.moe();
  const auto add_width = [&](const char* key, std::int64_t value, const char* axis,
                             std::int64_t ranks) {
    if (value == 0) return;
    add_cut(key, value, axis, ranks);
    add(fmt::format("{} > model.hidden", key), value > model_.hidden());
  };
  if (has_dense_layers(model_)) add_width("model.ffn", model_.ffn(), "tp", parallel_.tp());
  add_width("model.moe.ffn", moe.ffn(), "etp", parallel_.etp());
  add_width("model.moe.shared_ffn", moe.shared_ffn(), "tp", parallel_.tp());
  add_cut("model.vocabulary", model_.vocabulary(), "tp", parallel_.tp());
}

void Collector::add_experts() {
  const config::Moe& moe = model_.moe();
  const std::int64_t of_group = moe.experts() / moe.groups();
  add_cut("model.moe.experts", moe.experts(), "ep", parallel_.ep());
  add_cut("model.moe.groups", moe.groups(), "ep", parallel_.ep());
  add("model.moe.top_k > 1", moe.top_k() > 1);
  add("model.moe.top_k < experts", moe.top_k() < moe.experts());
  add("model.moe.top_k > ep", moe.top_k() > parallel_.ep());
  add("model.moe.groups > 1", moe.groups() > 1);
  add("model.moe.top_groups > 1", moe.top_groups() > 1);
  add("model.moe.top_groups < groups", moe.top_groups() < moe.groups());
  add("model.moe.group_best > 1", moe.group_best() > 1);
  add("model.moe.group_best < experts of a group", moe.group_best() < of_group);
  add("model.moe.top_k > experts of a group", moe.top_k() > of_group);
  add("model.moe.top_k < experts of top_groups", moe.top_k() < of_group * moe.top_groups());
  add("model.moe.every > 1", moe.every() > 1);
}

// As bits: dense or MoE, all keys or a window, computed again or not.
std::int64_t Collector::kinds_of(std::int64_t layer) const {
  const bool recomputes = recompute_of(config_.train()).of(layer) != Recompute::none;
  return (is_moe_layer(model_, layer) ? 1 : 2) | (window_of(model_, layer) > 0 ? 4 : 8) |
         (recomputes ? 16 : 32);
}

void Collector::add_stages() {
  const std::vector<LayerRange> stages = stages_of(config_);
  for (std::size_t s = 0; s < stages.size(); ++s) {
    std::int64_t blocks = 0, kinds = 0;
    for (std::size_t l = stages[s].begin; l < stages[s].end; ++l) {
      if (l == 0 || std::int64_t(l) == layers_of(model_) - 1) continue;
      ++blocks;
      kinds |= kinds_of(std::int64_t(l) - 1);
    }
    const std::size_t size = stages[s].end - stages[s].begin;
    add(fmt::format("layers of stage {}: none, one or several", s),
        std::min<std::int64_t>(blocks, 2));
    add(fmt::format("layers of stage {}: kinds", s), kinds);
    if (s > 0)
      add_order(fmt::format("layers of stage {} beside the one before", s), std::int64_t(size),
                std::int64_t(stages[s - 1].end - stages[s - 1].begin));
  }
}

void Collector::add_tokens() {
  const std::int64_t length = config_.data().sequence(), cp = parallel_.cp();
  const std::int64_t rows = config_.train().micro_batch() * length / cp;
  const std::int64_t chunk = config_.train().head_chunk();
  add_cut("data.sequence", length, "what tp and cp cut it into", length_unit(parallel_.tp(), cp));
  add("model.window >= data.sequence", model_.window() >= length);
  add("model.window > the chunks of cp", model_.window() > chunk_of(length, cp));
  add("model.max_positions > data.sequence", model_.max_positions() > length);
  add("data.sequence > model.rope_scaling.original_positions",
      length > model_.rope_scaling().original_positions());
  add("rows > train.head_chunk", rows > chunk);
  add("train.head_chunk divides rows", rows > chunk && rows % chunk == 0);
  if (model_.moe().has_capacity()) add_capacity();
}

void Collector::add_capacity() {
  const config::Moe& moe = model_.moe();
  const std::int64_t block = moe.capacity().block();
  const double kept =
      std::ceil(moe.capacity().factor() * double(block * moe.top_k()) / double(moe.experts()));
  add("model.moe.capacity.block > 1", block > 1);
  add("model.moe.capacity.block < data.sequence", block < config_.data().sequence());
  add("an expert may drop choices of a block", kept < double(block));
}

void Collector::add_batch() {
  const config::Train& train = config_.train();
  const std::int64_t size = train.micro_batch(), dp = data_parallel_size(config_);
  const std::int64_t all = (train.global_batch() + size - 1) / size, of_replica = all / dp;
  const std::int64_t together = steps_together(config_);
  ScheduleShape shape = shape_of(config_, int(of_replica));
  shape.together = int(together);
  add("train.micro_batch > 1", size > 1);
  add("the last micro-batch is shorter", train.global_batch() % size != 0);
  add("micro-batches that replicas do not divide", all % dp);
  add("micro-batches of a replica > 1", of_replica > 1);
  add_order("micro-batches of a replica beside stages", of_replica, shape.stages);
  add("the first stage goes back before it has gone forward with all",
      of_replica * shape.chunks > in_flight_bound(shape, 0));
  if (!model_.has_moe() || !counts_groups(model_.moe().balance())) return;
  const std::int64_t group = model_.moe().balance().group();
  add_order("model.moe.balance.group beside dp", group, dp);
  add("model.moe.balance.group > 1", group > 1);
  add("micro-batches of a replica > those counted together", of_replica > together);
}

}  // namespace

Facts facts_of(const config::Config& config) {
  return Collector(config).all();
}

std::string first_difference(const Facts& job, const Facts& here) {
  for (std::size_t i = 0; i < std::min(job.size(), here.size()); ++i)
    if (job[i] != here[i])
      return fmt::format("{}: {} in the job, {} here", job[i].first, job[i].second, here[i].second);
  return job.size() == here.size() ? "" : "other features";
}

}  // namespace pf
