#include "launch/prove_shrink.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>

#include "core/error.h"
#include "launch/prove_layouts.h"
#include "launch/prove_stages.h"

namespace pf {
namespace {

using Change = void (*)(config::Config&);

// Largest first. What a change leaves as it was is not tried; none undoes another.
constexpr Change changes[] = {
    [](config::Config& c) { c.mutable_checkpoint()->set_every(0); },
    [](config::Config& c) { c.mutable_model()->clear_moe(); },
    [](config::Config& c) { c.mutable_model()->clear_mla(); },
    [](config::Config& c) { c.mutable_model()->set_layers(1); },
    [](config::Config& c) { c.mutable_model()->set_layers(c.model().layers() - 1); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->set_every(1); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->set_first_dense(0); },
    [](config::Config& c) {  // with as many replicas
      c.mutable_parallel()->set_ranks(c.parallel().ranks() / c.parallel().tp());
      c.mutable_parallel()->set_tp(1);
    },
    [](config::Config& c) {
      c.mutable_parallel()->set_ranks(c.parallel().ranks() / c.parallel().cp());
      c.mutable_parallel()->set_cp(1);
    },
    [](config::Config& c) {
      c.mutable_parallel()->set_ranks(c.parallel().ranks() / c.parallel().pp());
      set_single_stage(*c.mutable_parallel());
    },
    [](config::Config& c) {
      const std::int64_t pp = c.parallel().pp();
      set_single_stage(*c.mutable_parallel());
      c.mutable_parallel()->set_pp(pp);
    },
    [](config::Config& c) { c.mutable_parallel()->set_stage_layers("even"); },
    [](config::Config& c) {
      c.mutable_parallel()->set_stage_layers("even");
      c.mutable_parallel()->set_chunks(c.parallel().chunks() - 1);
    },
    [](config::Config& c) {
      const std::int64_t pp = c.parallel().pp();
      c.mutable_parallel()->set_stage_layers("even");
      c.mutable_parallel()->set_ranks(c.parallel().ranks() / pp * (pp - 1));
      c.mutable_parallel()->set_pp(pp - 1);
    },
    [](config::Config& c) { c.mutable_parallel()->set_tp(1); },
    [](config::Config& c) { c.mutable_parallel()->set_cp(1); },
    [](config::Config& c) { c.mutable_parallel()->set_ep(1); },
    [](config::Config& c) { c.mutable_parallel()->set_etp(1); },
    [](config::Config& c) {  // one replica
      c.mutable_parallel()->set_ranks(c.parallel().tp() * c.parallel().cp() * c.parallel().pp());
    },
    [](config::Config& c) { c.mutable_parallel()->set_ranks(c.parallel().ranks() / 2); },
    [](config::Config& c) { c.mutable_parallel()->clear_cp_method(); },
    [](config::Config& c) { c.mutable_parallel()->clear_dispatcher(); },
    [](config::Config& c) { c.mutable_parallel()->set_zero(0); },
    [](config::Config& c) { c.mutable_parallel()->set_zero_shard(0); },
    [](config::Config& c) { c.mutable_train()->clear_lora(); },
    [](config::Config& c) { c.mutable_train()->clear_freeze(); },
    [](config::Config& c) {
      c.mutable_train()->set_recompute(config::Train::none);
      c.mutable_train()->clear_recompute_layers();
    },
    [](config::Config& c) { c.mutable_train()->clear_head_chunk(); },
    [](config::Config& c) { c.mutable_data()->set_across_documents(true); },
    [](config::Config& c) { c.mutable_model()->clear_dropout(); },
    [](config::Config& c) { c.mutable_model()->set_tied(false); },
    [](config::Config& c) { c.mutable_model()->clear_window(); },
    [](config::Config& c) { c.mutable_model()->clear_full_attention_every(); },
    [](config::Config& c) { c.mutable_model()->clear_rope_scaling(); },
    [](config::Config& c) { c.mutable_model()->clear_position(); },
    [](config::Config& c) { c.mutable_model()->clear_position_offset(); },
    [](config::Config& c) { c.mutable_model()->clear_qk_norm(); },
    [](config::Config& c) { c.mutable_model()->clear_qkv_bias(); },
    [](config::Config& c) { c.mutable_model()->clear_out_bias(); },
    [](config::Config& c) { c.mutable_model()->clear_mlp_bias(); },
    [](config::Config& c) { c.mutable_model()->clear_activation(); },
    [](config::Config& c) { c.mutable_model()->clear_norm(); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->clear_capacity(); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->clear_z_loss(); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->clear_shared_gate(); },
    [](config::Config& c) {
      c.mutable_model()->mutable_moe()->clear_shared_gate();
      c.mutable_model()->mutable_moe()->clear_shared_ffn();
    },
    [](config::Config& c) {
      c.mutable_model()->mutable_moe()->mutable_balance()->set_kind(config::Balance::none);
    },
    [](config::Config& c) {
      config::Balance& balance = *c.mutable_model()->mutable_moe()->mutable_balance();
      if (balance.kind() != config::Balance::none) balance.set_kind(config::Balance::micro);
    },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->mutable_balance()->set_group(1); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->clear_bias_rate(); },
    [](config::Config& c) {
      for (const char* key : {"groups", "top_groups", "group_best"}) {
        config::Moe& moe = *c.mutable_model()->mutable_moe();
        moe.GetReflection()->ClearField(&moe, moe.GetDescriptor()->FindFieldByName(key));
      }
    },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->clear_router(); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->clear_routed_scale(); },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->set_top_k(1); },
    [](config::Config& c) {
      c.mutable_model()->mutable_moe()->set_experts(c.model().moe().experts() / 2);
    },
    [](config::Config& c) {
      c.mutable_model()->mutable_moe()->set_experts(c.model().moe().experts() - 1);
    },
    [](config::Config& c) { c.mutable_model()->mutable_moe()->set_ffn(c.parallel().etp()); },
    [](config::Config& c) { c.mutable_model()->set_ffn(c.parallel().tp()); },
    [](config::Config& c) {
      c.mutable_model()->set_heads(c.model().heads() / 2);
      c.mutable_model()->set_kv_heads(std::min(c.model().heads(), c.model().kv_heads()));
    },
    [](config::Config& c) { c.mutable_model()->set_kv_heads(c.model().heads()); },
    [](config::Config& c) { c.mutable_model()->set_head_dim(2); },
    [](config::Config& c) { c.mutable_model()->set_hidden(c.model().hidden() / 2); },
    [](config::Config& c) { c.mutable_model()->set_hidden(c.model().hidden() - 1); },
    [](config::Config& c) {  // one micro-batch a replica
      const std::int64_t fewest = c.train().micro_batch() * data_parallel_size(c);
      c.mutable_train()->set_global_batch(std::min(fewest, c.train().global_batch()));
    },
    [](config::Config& c) { c.mutable_train()->set_global_batch(c.train().global_batch() / 2); },
    [](config::Config& c) {
      c.mutable_train()->set_global_batch(c.train().global_batch() / c.train().micro_batch());
      c.mutable_train()->set_micro_batch(1);
    },
    [](config::Config& c) { c.mutable_data()->set_sequence(c.data().sequence() / 2); },
    [](config::Config& c) {
      const std::int64_t shortest = 2 * c.parallel().tp() * c.parallel().cp();
      c.mutable_data()->set_sequence(std::min(shortest, c.data().sequence()));
    },
};

// As a file has it; nothing if training refuses it.
bool complete(config::Config& config) {
  try {
    config = parse_config(to_yaml(config), config.run().name());
  } catch (const Error&) {
    return false;
  }
  return refusal(config).empty();
}

}  // namespace

config::Config shrink(config::Config config,
                      const std::function<bool(const config::Config&)>& fails, int most) {
  using google::protobuf::util::MessageDifferencer;
  bool has_changed = true;
  while (has_changed) {
    has_changed = false;
    for (const Change change : changes) {
      config::Config smaller = config;
      change(smaller);
      if (smaller.model().has_moe() && !config.model().has_moe()) continue;
      if (!complete(smaller) || MessageDifferencer::Equals(smaller, config)) continue;
      if (--most < 0) return config;
      if (!fails(smaller)) continue;
      config = smaller;
      has_changed = true;
    }
  }
  return config;
}

}  // namespace pf
