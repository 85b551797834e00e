// The transformer as a list of layers: embedding, blocks, head.
#pragma once

#include "models/attention.h"
#include "models/latent_attention.h"
#include "models/layer.h"
#include "models/mlp.h"
#include "models/model.pb.h"
#include "models/moe.h"
#include "parallel/gradients.h"

namespace pf {

// What backward makes again instead of keeping it from forward.
struct Recompute {
  enum Kind : std::uint8_t {
    none,
    selective,  // what takes little work: what norms give, rows as experts get them, activations
                // of MLPs without a gate, queries and keys that have a norm of their own
    full,       // all but the input of a layer
  };
  Kind kind = none;
  std::int64_t layers = 0;  // so many of the model's first ones; 0: all

  Kind of(std::int64_t layer) const { return layers == 0 || layer < layers ? kind : none; }
};

// What a model is made with beside its configuration.
struct ModelOptions {
  std::int64_t positions = 0;      // longest sequence
  std::int64_t head_chunk = 1024;  // rows of logits in memory at once
  DType type = DType::f32;         // of activations
  CpMethod cp_method = CpMethod::all_gather;
  Dispatcher dispatcher = Dispatcher::all_to_all;
  Recompute recompute = {};  // not of the embedding and the head
  // Of all layers, embedding and head included: the ranges that this rank holds, in order; empty:
  // all.
  std::vector<LayerRange> stages = {};
};

// Of the whole model, whichever stage has them.
struct MoeLayers {
  std::vector<int> numbers;
  std::int64_t experts = 0;  // of each
  bool drops = false;        // choices beyond a capacity
};

// A decoder-only transformer with a norm before attention and before the MLP or MoE (Xiong et al.
// 2020); models/model.proto says of which parts. Its head has no bias.
class Transformer {
 public:
  Transformer(const config::Model& config, const ModelOptions& options, const Mesh& mesh);
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  // Those of this rank, stage after stage.
  Layers& layers() { return layers_; }
  const std::vector<LayerRange>& stages() const { return stages_; }  // of layers()
  std::int64_t hidden() const { return hidden_; }
  const MoeLayers& moe_layers() const { return moe_layers_; }
  void visit(const Visitor& visitor);
  // Adapted matrices become what products make of them: see Parameter::merge().
  void merge_adapters();
  // From global indices: the same weights under every layout. All layers, or one of layers().
  void initialise(std::uint64_t seed);
  void initialise(std::uint64_t seed, std::size_t layer);
  // After a step, with the choices of the global batch by the whole model's MoE layers: see
  // Moe::update_bias().
  void update_biases(const std::vector<std::vector<double>>& expert_counts);

 private:
  const Mesh* mesh_;
  DType type_;
  std::int64_t hidden_;
  Tensor rope_;
  Layers layers_;
  std::vector<LayerRange> stages_;
  MoeLayers moe_layers_;
  std::map<int, Moe*> moes_;  // of layers_, by number
};

// Embedding, blocks and head.
inline std::int64_t layers_of(const config::Model& config) {
  return config.layers() + 2;
}

bool is_moe_layer(const config::Model& config, std::int64_t layer);
// Keys that a query of this layer sees; 0: all before it.
std::int64_t window_of(const config::Model& config, std::int64_t layer);

// With kv_heads = heads and head_dim = hidden / heads where they are not given.
config::Model with_heads(config::Model config);

// Those that gradients change, by layer; a tied embedding is also the head's.
std::vector<LayerWeights> trained_parameters(Transformer& model);

// Of the whole model, whatever the layout.
struct ModelSize {
  std::int64_t parameters = 0;
  std::int64_t active_parameters = 0;  // used by one token: top_k of the experts
  std::int64_t trained_parameters = 0;
  // One token's share of a training step: 6 FLOPs for each active weight of a product (2 forward, 4
  // backward; no 2 for its gradient where it is frozen, and no product of its own for an adapter's,
  // which leaves 4 each), and attention's scores and sums of the keys that a token sees (half of a
  // sequence, or less within a window), as Megatron counts them (Narayanan et al. 2021, equation 3,
  // halved). Recompute is not counted.
  double flops_per_token = 0;
};
// kv_heads and head_dim may be missing, as in a preset. `prepare` freezes and adapts.
ModelSize model_size(const config::Model& config, std::int64_t sequence,
                     const std::function<void(Transformer&)>& prepare = {});

}  // namespace pf
