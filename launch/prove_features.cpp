#include "launch/prove_features.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "launch/prove_stages.h"
#include "models/context_parallel.h"
#include "models/transformer.h"

namespace pf {
namespace {

constexpr int most_ranks_of_stage = 8, most_ranks = 16;

// Largest block of tokens that the layout does not cut.
std::int64_t largest_block(const Draft& d) {
  const std::int64_t length = d.config.data().sequence();
  return std::gcd(chunk_of(length, d.axes.cp), length / d.axes.tp / d.axes.cp);
}

void set_capacity(Draft& d, std::int64_t block, bool pads) {
  config::Capacity& capacity = *d.moe().mutable_capacity();
  capacity.set_factor(d.dice.one_of<double>({0.7, 1, 1.3, 2}));
  capacity.set_block(block);
  capacity.set_pad(pads);
}

void set_latent(Draft& d, std::int64_t q_rank) {
  config::Mla& mla = *d.model().mutable_mla();
  mla.set_q_rank(q_rank);
  mla.set_kv_rank(d.dice.one_of<std::int64_t>({5, 8}));
  mla.set_nope_dim(d.dice.one_of<std::int64_t>({3, 4}));
  mla.set_rope_dim(d.dice.one_of<std::int64_t>({2, 4}));
  mla.set_value_dim(d.dice.one_of<std::int64_t>({2, 5}));
}

void share_keys(Draft& d, std::int64_t heads_of_one) {
  const std::int64_t heads = d.model().heads();
  d.model().set_kv_heads(heads % heads_of_one == 0 ? heads / heads_of_one : 1);
}

void stretch(Draft& d, config::RopeScaling::Kind kind) {
  config::RopeScaling& scaling = *d.model().mutable_rope_scaling();
  scaling.set_kind(kind);
  scaling.set_factor(d.dice.one_of<double>({2, 3.5}));
  scaling.set_original_positions(std::max<std::int64_t>(2, d.config.data().sequence() / 2));
  if (kind == config::RopeScaling::llama3) scaling.set_fast(4);
}

std::int64_t micro_batches_of_replica(const Draft& d) {
  const config::Train& train = d.config.train();
  return (train.global_batch() + train.micro_batch() - 1) / train.micro_batch() / d.axes.dp;
}

// With as many heads as ranks can divide, however they share keys.
template <config::Parallel::CpMethod method>
void see_keys(Draft& d) {
  d.config.mutable_parallel()->set_cp_method(method);
  if (method == config::Parallel::ring) return;
  d.model().set_heads(2 * std::int64_t{d.axes.tp} * d.axes.cp);
  d.model().set_kv_heads(d.model().heads());
}

template <config::Balance::Kind kind>
void balance(Draft& d) {
  d.moe().mutable_balance()->set_kind(kind);
}

template <config::Moe::Router router>
void route(Draft& d) {
  d.moe().set_router(router);
}

template <std::int64_t top_k>
void choose(Draft& d) {
  d.moe().set_top_k(top_k);
}

template <config::RopeScaling::Kind kind>
void stretch(Draft& d) {
  stretch(d, kind);
}

template <config::Model::Activation activation>
void activate(Draft& d) {
  d.model().set_activation(activation);
}

template <config::Train::Recompute kind>
void recompute(Draft& d) {
  d.config.mutable_train()->set_recompute(kind);
}

template <std::int64_t zero>
void share(Draft& d) {
  d.config.mutable_parallel()->set_zero(zero);
}

// Experts in four groups, of which a token sees two.
void group_experts(Draft& d) {
  config::Moe& moe = d.moe();
  std::int64_t experts = std::lcm(moe.experts(), 4);
  while (experts / 2 < moe.top_k()) experts *= 2;
  moe.set_experts(experts);
  moe.set_groups(4);
  moe.set_top_groups(2);
  moe.set_group_best(std::min<std::int64_t>(2, experts / 4));
}

void fill_batch(Draft& d, std::int64_t least, std::int64_t missing) {
  config::Train& train = *d.config.mutable_train();
  const std::int64_t micro_batches = micro_batches_of(d.config.parallel(), least);
  train.set_global_batch(d.axes.dp * micro_batches * train.micro_batch() - missing);
}

// With a layer for each of its stages.
template <config::Parallel::Schedule kind>
void schedule(Draft& d) {
  config::Parallel& parallel = *d.config.mutable_parallel();
  parallel.set_schedule(kind);
  parallel.set_chunks(usual_chunks(kind));
  if (kind == config::Parallel::interleaved && d.axes.pp < 3)
    parallel.set_chunks(2 + d.dice.below(2));
  const std::int64_t missing = parallel.pp() * parallel.chunks() - layers_of(d.model());
  if (missing > 0) d.model().set_layers(d.model().layers() + missing);
}

void divide_unevenly(Draft& d) {
  config::Parallel& parallel = *d.config.mutable_parallel();
  const std::int64_t parts = parallel.pp() * parallel.chunks();
  const std::int64_t missing = parts + 1 - layers_of(d.model());
  if (missing > 0) d.model().set_layers(d.model().layers() + missing);
  parallel.set_stage_layers(uneven_stage_layers(layers_of(d.model()), parts, d.dice));
}

void adapt(Draft& d, const char* on, std::int64_t rank) {
  config::Lora& lora = *d.config.mutable_train()->mutable_lora();
  lora.set_on(on);
  lora.set_rank(rank);
  lora.set_alpha(3);
}

Factor axis(const char* name, const std::vector<int>& sizes) {
  Factor factor{name, {}};
  for (const int size : sizes) factor.levels.push_back({std::to_string(size)});
  return factor;
}

std::vector<Factor> make_factors() {
  return {
      axis("tp", {1, 2, 3, 4, 8}),
      axis("cp", {1, 2, 3, 4}),
      axis("dp", {1, 2, 3, 4}),
      axis("etp", {1, 2, 3, 4}),
      axis("ep", {1, 2, 3, 4, 6, 8}),
      axis("pp", {1, 2, 3, 4}),
      {"layers",
       {{"every second MoE", [](Draft& d) { d.moe().set_every(2); }},
        {"all MoE"},
        {"first dense",
         [](Draft& d) {
           d.moe().set_first_dense(1);
           d.model().set_layers(2 + d.dice.below(2));
         }},
        {"none MoE", [](Draft& d) { d.model().clear_moe(); }}}},
      {"schedule",
       {{"1f1b", schedule<config::Parallel::one_f_one_b>},
        {"gpipe", schedule<config::Parallel::gpipe>},
        {"interleaved", schedule<config::Parallel::interleaved>},
        {"zbh1", schedule<config::Parallel::zbh1>},
        {"zbv", schedule<config::Parallel::zbv>}}},
      {"layers of stages", {{"even"}, {"uneven", divide_unevenly}}},
      {"CP method",
       {{"all_gather"},
        {"ring", see_keys<config::Parallel::ring>},
        {"ulysses", see_keys<config::Parallel::ulysses>},
        {"two_level", see_keys<config::Parallel::two_level>}}},
      {"dispatcher",
       {{"all_to_all"},
        {"all_gather",
         [](Draft& d) {
           d.config.mutable_parallel()->set_dispatcher(config::Dispatcher::all_gather);
         }}}},
      {"attention",
       {{"each head its keys"},
        {"two heads share keys", [](Draft& d) { share_keys(d, 2); }},
        {"all heads share keys", [](Draft& d) { share_keys(d, d.model().heads()); }},
        {"latent", [](Draft& d) { set_latent(d, 6); }},
        {"latent keys", [](Draft& d) { set_latent(d, 0); }}}},
      {"heads",
       {{"plain"},
        {"biases of queries, keys and values", [](Draft& d) { d.model().set_qkv_bias(true); }},
        {"all biases",
         [](Draft& d) {
           d.model().set_qkv_bias(true);
           d.model().set_out_bias(true);
         }},
        {"norms", [](Draft& d) { d.model().set_qk_norm(true); }}}},
      {"positions",
       {{"rotary"},
        {"linear", stretch<config::RopeScaling::linear>},
        {"dynamic NTK", stretch<config::RopeScaling::dynamic_ntk>},
        {"YaRN", stretch<config::RopeScaling::yarn>},
        {"llama3", stretch<config::RopeScaling::llama3>},
        {"learned",
         [](Draft& d) {
           d.model().set_position(config::Model::learned);
           d.model().set_max_positions(d.config.data().sequence() + d.dice.below(2));
           d.model().set_position_offset(d.dice.below(3));
         }}}},
      {"window",
       {{"none"},
        {"all layers", [](Draft& d) { d.model().set_window(5 + d.dice.below(6)); }},
        {"some layers",
         [](Draft& d) {
           d.model().set_window(5 + d.dice.below(6));
           d.model().set_full_attention_every(2);
         }}}},
      {"documents",
       {{"seen together"},
        {"apart", [](Draft& d) { d.config.mutable_data()->set_across_documents(false); }}}},
      {"MLP",
       {{"SwiGLU"},
        {"GELU", activate<config::Model::gelu>},
        {"tanh GELU with biases",
         [](Draft& d) {
           d.model().set_activation(config::Model::gelu_tanh);
           d.model().set_mlp_bias(true);
         }},
        {"ReLU", activate<config::Model::relu>}}},
      {"norm", {{"RMS"}, {"layer", [](Draft& d) { d.model().set_norm(config::Model::layer); }}}},
      {"head",
       {{"its own"},
        {"tied", [](Draft& d) { d.model().set_tied(true); }},
        {"in chunks", [](Draft& d) { d.config.mutable_train()->set_head_chunk(7); }},
        {"tied, in chunks",
         [](Draft& d) {
           d.model().set_tied(true);
           d.config.mutable_train()->set_head_chunk(5);
         }}}},
      {"top k", {{"2", choose<2>}, {"1", choose<1>}, {"3", choose<3>}}},
      {"router",
       {{"softmax, then top k", route<config::Moe::softmax_top_k>},
        {"top k, then softmax", route<config::Moe::top_k_softmax>},
        {"sigmoids", route<config::Moe::sigmoid_top_k>},
        {"forced", route<config::Moe::forced>}}},
      {"groups of experts", {{"none"}, {"four", group_experts}}},
      {"router's bias", {{"none"}, {"moves", [](Draft& d) { d.moe().set_bias_rate(0.05); }}}},
      {"shared expert",
       {{"none"},
        {"plain", [](Draft& d) { d.moe().set_shared_ffn(d.axes.tp * (1 + d.dice.below(4))); }},
        {"gated",
         [](Draft& d) {
           d.moe().set_shared_ffn(d.axes.tp * (1 + d.dice.below(4)));
           d.moe().set_shared_gate(true);
         }}}},
      {"capacity",
       {{"none"},
        {"drops in large blocks", [](Draft& d) { set_capacity(d, largest_block(d), false); }},
        {"drops in small blocks",
         [](Draft& d) { set_capacity(d, largest_block(d) % 2 == 0 ? 2 : 1, false); }},
        {"pads", [](Draft& d) { set_capacity(d, largest_block(d), true); }}}},
      {"z loss", {{"none"}, {"some", [](Draft& d) { d.moe().set_z_loss(0.1); }}}},
      {"dropout", {{"none"}, {"some", [](Draft& d) { d.model().set_dropout(0.2); }}}},
      {"micro-batch",
       {{"1"},
        {"2", [](Draft& d) { d.config.mutable_train()->set_micro_batch(2); }},
        {"3", [](Draft& d) { d.config.mutable_train()->set_micro_batch(3); }}}},
      {"least micro-batches of a replica",
       {{"2", [](Draft& d) { fill_batch(d, 2, 0); }},
        {"1", [](Draft& d) { fill_batch(d, 1, 0); }},
        {"3", [](Draft& d) { fill_batch(d, 3, 0); }},
        {"2, the last one shorter", [](Draft& d) { fill_batch(d, 2, 1); }},
        {"more than stages", [](Draft& d) { fill_batch(d, d.axes.pp + 1 + d.dice.below(2), 0); }}}},
      {"balance",
       {{"global", balance<config::Balance::global>},
        {"none", balance<config::Balance::none>},
        {"micro", balance<config::Balance::micro>},
        {"sequence", balance<config::Balance::sequence>},
        {"mixed", balance<config::Balance::mixed>}}},
      {"balance group",
       {{"all replicas", [](Draft& d) { d.moe().mutable_balance()->set_group(d.axes.dp); }},
        {"one micro-batch", [](Draft& d) { d.moe().mutable_balance()->set_group(1); }},
        {"a step",
         [](Draft& d) {
           d.moe().mutable_balance()->set_group(d.axes.dp * micro_batches_of_replica(d));
         }}}},
      {"recompute",
       {{"none"},
        {"full", recompute<config::Train::full>},
        {"selective", recompute<config::Train::selective>},
        {"full in one layer",
         [](Draft& d) {
           recompute<config::Train::full>(d);
           d.config.mutable_train()->set_recompute_layers(1);
         }}}},
      {"states",
       {{"each its own"},
        {"shared", share<1>},
        {"and gradients shared", share<2>},
        {"and weights shared", share<3>},
        {"shared by two",
         [](Draft& d) {
           d.config.mutable_parallel()->set_zero(1 + d.dice.below(3));
           d.config.mutable_parallel()->set_zero_shard(2);
         }}}},
      {"trained",
       {{"all"},
        {"all but embedding and norms",
         [](Draft& d) { d.config.mutable_train()->set_freeze("embedding*, *.norm*"); }},
        {"adapters of attention", [](Draft& d) { adapt(d, "layers.*.attention.*", 2); }},
        {"adapters of all layers", [](Draft& d) { adapt(d, "layers.*", 1); }}}},
      {"checkpoint",
       {{"none", [](Draft& d) { d.config.mutable_checkpoint()->set_every(0); }},
        {"another layout goes on"}}},
  };
}

std::vector<std::vector<std::size_t>> make_axis_choices() {
  std::vector<std::vector<std::size_t>> all;
  std::vector<std::size_t> choice(axis_factors, 0);
  for (;;) {
    const AxisSizes s = axes_of(choice);
    const auto above_1 = std::ranges::count_if(std::vector{s.tp, s.cp, s.dp, s.etp, s.ep, s.pp},
                                               [](int size) { return size > 1; });
    const bool fits = s.of_stage() <= most_ranks_of_stage && s.ranks() <= most_ranks;
    if (fits && s.of_stage() % (s.etp * s.ep) == 0 && above_1 >= 2) all.push_back(choice);
    std::size_t f = 0;
    while (f < axis_factors && ++choice[f] == factors()[f].levels.size()) choice[f++] = 0;
    if (f == axis_factors) return all;
  }
}

}  // namespace

const std::vector<Factor>& factors() {
  static const std::vector<Factor> all = make_factors();
  return all;
}

const std::vector<std::vector<std::size_t>>& axis_choices() {
  static const std::vector<std::vector<std::size_t>> all = make_axis_choices();
  return all;
}

AxisSizes axes_of(const std::vector<std::size_t>& choice) {
  const auto size = [&](std::size_t f) { return std::stoi(factors()[f].levels[choice[f]].name); };
  return {size(0), size(1), size(2), size(3), size(4), size(5)};
}

}  // namespace pf
