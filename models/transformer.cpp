#include "models/transformer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/adapter.h"
#include "core/error.h"
#include "core/ops/rows.h"
#include "models/ends.h"
#include "parallel/communicator.h"

namespace pf {
namespace {

// Residual branches add up: their last products start smaller (Radford et al. 2019).
double out_std(const config::Model& c) {
  return c.init_std() / std::sqrt(2.0 * double(c.layers()));
}

// Queries and keys are both multiplied by the attention factor.
double score_factor(const config::Model& c) {
  if (!c.has_rope_scaling()) return 1;
  const config::RopeScaling& s = c.rope_scaling();
  const double usual = s.kind() == config::RopeScaling::yarn ? 0.1 * std::log(s.factor()) + 1 : 1;
  const double factor = s.has_attention_factor() ? s.attention_factor() : usual;
  return factor * factor;
}

std::optional<ActivationKind> activation_of(const config::Model& c) {
  switch (c.activation()) {
    case config::Model::gelu:
      return ActivationKind::gelu;
    case config::Model::gelu_tanh:
      return ActivationKind::gelu_tanh;
    case config::Model::relu:
      return ActivationKind::relu;
    case config::Model::swiglu:
      break;
  }
  return std::nullopt;
}

class TransformerLayer : public Layer {
 public:
  TransformerLayer(const config::Model& c, int layer, const ModelOptions& options, const Mesh& mesh,
                   const Tensor* rope)
      : name_("layers." + std::to_string(layer)), recompute_(options.recompute.of(layer)) {
    if (c.has_mla())
      latent_.emplace(name_, layer, latent(c, layer, options), mesh, rope);
    else
      attention_.emplace(name_, layer, attention(c, layer, options), mesh, rope);
    if (is_moe_layer(c, layer))
      moe_.emplace(name_, layer, moe(c, layer, options), mesh);
    else
      mlp_.emplace(name_, layer, mlp(c, layer, options), mesh);
  }
  std::string name() const override { return name_; }
  Tensor forward(const Tensor& x, Context& context) override {
    if (recompute_ != Recompute::full) return forward_once(x, context);
    const auto segment = [this, &context](std::span<const Tensor> in) {
      return std::vector<Tensor>{forward_once(in[0], context)};
    };
    return recompute(segment, {x})[0];
  }
  Moe* moe() { return moe_ ? &*moe_ : nullptr; }

 private:
  Tensor forward_once(const Tensor& x, Context& context) {
    const Tensor y = attention_ ? attention_->forward(x, context) : latent_->forward(x, context);
    return moe_ ? moe_->forward(y, context) : mlp_->forward(y, context);
  }
  void visit_parts(const Visitor& visitor) override {
    if (attention_) attention_->visit(visitor);
    if (latent_) latent_->visit(visitor);
    if (mlp_) mlp_->visit(visitor);
    if (moe_) moe_->visit(visitor);
  }

  static bool rebuilds(int layer, const ModelOptions& options) {
    return options.recompute.of(layer) == Recompute::selective;
  }
  static AttentionConfig attention(const config::Model& c, int layer, const ModelOptions& options) {
    return {.hidden = c.hidden(),
            .heads = c.heads(),
            .kv_heads = c.kv_heads(),
            .head_dim = c.head_dim(),
            .norm = norm_of(c),
            .init_std = c.init_std(),
            .out_std = out_std(c),
            .dropout = c.dropout(),
            .score_factor = score_factor(c),
            .window = window_of(c, layer),
            .cp_method = options.cp_method,
            .has_qkv_bias = c.qkv_bias(),
            .has_out_bias = c.out_bias(),
            .has_qk_norm = c.qk_norm(),
            .rebuilds = rebuilds(layer, options)};
  }
  static LatentAttentionConfig latent(const config::Model& c, int layer,
                                      const ModelOptions& options) {
    const config::Mla& m = c.mla();
    return {.hidden = c.hidden(),
            .heads = c.heads(),
            .q_rank = m.q_rank(),
            .kv_rank = m.kv_rank(),
            .nope_dim = m.nope_dim(),
            .rope_dim = m.rope_dim(),
            .value_dim = m.value_dim(),
            .norm = norm_of(c),
            .init_std = c.init_std(),
            .out_std = out_std(c),
            .dropout = c.dropout(),
            .score_factor = score_factor(c),
            .window = window_of(c, layer),
            .cp_method = options.cp_method,
            .rebuilds = rebuilds(layer, options)};
  }
  static MlpConfig mlp(const config::Model& c, int layer, const ModelOptions& options) {
    return {.hidden = c.hidden(),
            .ffn = c.ffn(),
            .norm = norm_of(c),
            .init_std = c.init_std(),
            .out_std = out_std(c),
            .dropout = c.dropout(),
            .activation = activation_of(c),
            .has_bias = c.mlp_bias(),
            .rebuilds = rebuilds(layer, options)};
  }
  static MoeConfig moe(const config::Model& c, int layer, const ModelOptions& options) {
    const config::Moe& m = c.moe();
    const bool is_forced = m.router() == config::Moe::forced;
    return {.hidden = c.hidden(),
            .experts = m.experts(),
            .top_k = m.top_k(),
            .ffn = m.ffn(),
            .shared_ffn = m.shared_ffn(),
            .router = {.kind = is_forced ? RouterKind::top_k_softmax : RouterKind(m.router()),
                       .scale = m.routed_scale(),
                       .groups = m.groups(),
                       .top_groups = m.top_groups(),
                       .group_best = m.group_best()},
            .is_forced = is_forced,
            .bias_rate = m.bias_rate(),
            .capacity = {m.has_capacity() ? m.capacity().block() : 0, m.capacity().factor(),
                         m.capacity().pad()},
            .has_shared_gate = m.shared_gate(),
            .balance = BalanceKind(m.balance().kind()),
            .balance_weight = m.balance().weight(),
            .z_loss = m.z_loss(),
            .norm = norm_of(c),
            .init_std = c.init_std(),
            .out_std = out_std(c),
            .dropout = c.dropout(),
            .dispatcher = options.dispatcher,
            .rebuilds = rebuilds(layer, options)};
  }

  std::string name_;
  Recompute::Kind recompute_;
  std::optional<Attention> attention_;
  std::optional<LatentAttention> latent_;
  std::optional<Mlp> mlp_;
  std::optional<Moe> moe_;
};

// A stream of random numbers that only the name decides: FNV-1a.
std::uint32_t stream_of(const std::string& name) {
  std::uint32_t hash = 2166136261u;
  for (const char c : name) hash = (hash ^ std::uint8_t(c)) * 16777619u;
  return hash & 0x3fffffff;  // the rest is for dropout and the like
}

RopeScaling scaling_of(const config::Model& c) {
  if (!c.has_rope_scaling()) return {};
  const config::RopeScaling& s = c.rope_scaling();
  return {RopeScaling::Kind(s.kind()), s.factor(), s.original_positions(), s.fast(), s.slow()};
}

}  // namespace

Transformer::Transformer(const config::Model& c, const ModelOptions& options, const Mesh& mesh)
    : mesh_(&mesh), type_(options.type), hidden_(c.hidden()) {
  const bool turns = c.position() == config::Model::rope;
  if (turns) {
    const PurposeScope of_part("tables");
    const std::int64_t width = c.has_mla() ? c.mla().rope_dim() : c.head_dim();
    rope_ = rope_table(options.positions,
                       rope_frequencies(width, c.rope_base(), scaling_of(c), options.positions),
                       options.type, mesh.device());
  }
  const auto head = std::size_t(layers_of(c) - 1);
  std::vector<LayerRange> ranges = options.stages;
  if (ranges.empty()) ranges = {{0, head + 1}};
  const auto has = [&](std::size_t layer) {
    return std::ranges::any_of(
        ranges, [&](const LayerRange& r) { return layer >= r.begin && layer < r.end; });
  };
  const bool is_at_both_ends = has(0) && has(head);
  Parameter* tied = nullptr;
  for (const LayerRange& range : ranges) {
    const std::size_t begin = layers_.size();
    for (std::size_t l = range.begin; l < range.end; ++l) {
      if (l == 0) {
        auto first = std::make_unique<Embedding>(c, !is_at_both_ends, mesh);
        if (c.tied()) tied = &first->weight();
        layers_.push_back(std::move(first));
      } else if (l == head) {
        layers_.push_back(std::make_unique<Head>(c, options.head_chunk, tied, mesh));
      } else {
        const int number = int(l) - 1;
        auto layer =
            std::make_unique<TransformerLayer>(c, number, options, mesh, turns ? &rope_ : nullptr);
        if (layer->moe() != nullptr) moes_[number] = layer->moe();
        layers_.push_back(std::move(layer));
      }
    }
    stages_.push_back({begin, layers_.size()});
  }
  for (int number = 0; number < int(c.layers()); ++number)
    if (is_moe_layer(c, number)) moe_layers_.numbers.push_back(number);
  if (c.has_moe()) moe_layers_.experts = c.moe().experts();
  moe_layers_.drops = c.has_moe() && c.moe().has_capacity();
}

void Transformer::update_biases(const std::vector<std::vector<double>>& expert_counts) {
  const std::vector<int>& numbers = moe_layers_.numbers;
  require(expert_counts.size() == numbers.size(), "update_biases: counts of ", expert_counts.size(),
          " layers for ", numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i)
    if (const auto found = moes_.find(numbers[i]); found != moes_.end())
      found->second->update_bias(expert_counts[i]);
}

void Transformer::visit(const Visitor& visitor) {
  for (const auto& layer : layers_) layer->visit(visitor);
}

void Transformer::merge_adapters() {
  visit({.parameter = [](Parameter& w) {
    if (w.adapter() != nullptr) w.merge();
  }});
}

void Transformer::initialise(std::uint64_t seed) {
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) initialise(seed, layer);
}

void Transformer::initialise(std::uint64_t seed, std::size_t layer) {
  layers_[layer]->visit({.parameter = [&](Parameter& w) {
    w.initialise(mesh_->device(), type_, seed, stream_of(w.name()));
  }});
}

std::vector<LayerWeights> trained_parameters(Transformer& model) {
  std::vector<LayerWeights> layers;
  for (const auto& layer : model.layers()) {
    LayerWeights& weights = layers.emplace_back();
    const auto add = [&](Parameter* w) {
      if (w->is_trainable() && std::ranges::find(weights.parameters, w) == weights.parameters.end())
        weights.parameters.push_back(w);
    };
    layer->visit({.parameter = [&](Parameter& w) { add(&w); },
                  .pack =
                      [&](Pack& pack) {
                        weights.packs.push_back(&pack);
                        for (Parameter* w : pack.sources()) add(w);
                      }});
  }
  return layers;
}

config::Model with_heads(config::Model c) {
  if (!c.has_kv_heads()) c.set_kv_heads(c.heads());
  if (!c.has_head_dim()) c.set_head_dim(c.hidden() / c.heads());
  return c;
}

ModelSize model_size(const config::Model& config, std::int64_t sequence,
                     const std::function<void(Transformer&)>& prepare) {
  const config::Model c = with_heads(config);
  FakeCommunicator alone(0, 1);
  Device device(make_meta_backend(make_cpu_backend(1)));
  const Mesh mesh(alone, device, Layout::make(1, 1, 1, 1, 1, 1, 1), {0});
  Transformer model(c, {.positions = sequence}, mesh);
  if (prepare) prepare(model);
  // Of the experts, a token meets its top k.
  const auto met = [&](const Parameter& w) {
    const std::int64_t size = w.whole().size();
    return w.whole().dims() == 3 ? size / c.moe().experts() * c.moe().top_k() : size;
  };
  ModelSize size;
  std::int64_t of_products = 0;  // FLOPs
  model.visit({.parameter =
                   [&](Parameter& w) {
                     size.parameters += w.whole().size();
                     size.active_parameters += met(w);
                     if (w.is_trainable()) size.trained_parameters += w.whole().size();
                   },
               .pack =
                   [&](Pack& pack) {
                     for (const Parameter* w : pack.parts()) {
                       of_products += (w->is_trainable() ? 6 : 4) * met(*w);
                       if (const Adapter* adapter = w->adapter())
                         of_products += 4 * (met(adapter->a) + met(adapter->b));
                     }
                   }});
  // Of one head and key: scores and weighted sums, 2 FLOPs a column each.
  const double columns =
      2.0 * double(c.heads()) *
      double(c.has_mla() ? c.mla().nope_dim() + c.mla().rope_dim() + c.mla().value_dim()
                         : 2 * c.head_dim());
  double keys = 0;  // that a token sees on average, over all layers
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    const auto length = double(sequence), window = double(window_of(c, layer));
    keys += window > 0 && window < length ? window - window * window / (2 * length) : length / 2;
  }
  size.flops_per_token = double(of_products) + 3 * columns * keys;
  return size;
}

bool is_moe_layer(const config::Model& c, std::int64_t layer) {
  return c.has_moe() && layer >= c.moe().first_dense() && (layer + 1) % c.moe().every() == 0;
}

std::int64_t window_of(const config::Model& c, std::int64_t layer) {
  const std::int64_t every = c.full_attention_every();
  return every > 0 && (layer + 1) % every == 0 ? 0 : c.window();
}

}  // namespace pf
