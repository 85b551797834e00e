#include "models/transformer.h"

#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "core/ops/rows.h"
#include "models/weights.h"
#include "parallel/table.h"

namespace pf {
namespace {

// Ids to rows. The vocabulary is cut over tp: each rank finds some rows, leave() sums them.
class Embedding : public Layer {
 public:
  Embedding(const config::Model& c, const Mesh& mesh)
      : w_(make_parameter(mesh, {"embedding",
                                 {c.vocabulary(), c.hidden()},
                                 dense_weight(Cut::rows),
                                 Init::normal,
                                 c.init_std(),
                                 Role::embedding})) {}
  std::string name() const override { return "embedding"; }
  Tensor forward(const Tensor&, Context& context) override {
    return leave(embedding(context.batch.ids, w_, context.type), context);
  }
  void visit(const Visitor& visitor) override { visitor.parameter(w_); }

 private:
  Parameter w_;
};

class TransformerLayer : public Layer {
 public:
  TransformerLayer(const config::Model& c, int layer, const Mesh& mesh, const Tensor* rope)
      : name_("layers." + std::to_string(layer)),
        attention_(name_, layer, attention(c), mesh, rope) {
    const bool is_moe = c.has_moe() && (layer + 1) % c.moe().every() == 0;
    if (is_moe) {
      moe_.emplace(name_, layer, moe(c), mesh);
    } else {
      mlp_.emplace(
          name_, layer,
          MlpConfig{c.hidden(), c.ffn(), c.norm_eps(), c.init_std(), out_std(c), c.dropout()},
          mesh);
    }
  }
  std::string name() const override { return name_; }
  Tensor forward(const Tensor& x, Context& context) override {
    const Tensor y = attention_.forward(x, context);
    return moe_ ? moe_->forward(y, context) : mlp_->forward(y, context);
  }
  void visit(const Visitor& visitor) override {
    attention_.visit(visitor);
    if (mlp_) mlp_->visit(visitor);
    if (moe_) moe_->visit(visitor);
  }

 private:
  // Residual branches add up: their last products start smaller (Radford et al. 2019).
  static double out_std(const config::Model& c) {
    return c.init_std() / std::sqrt(2.0 * double(c.layers()));
  }
  static AttentionConfig attention(const config::Model& c) {
    return {c.hidden(),   c.heads(),    c.kv_heads(), c.head_dim(),
            c.norm_eps(), c.init_std(), out_std(c),   c.dropout()};
  }
  static MoeConfig moe(const config::Model& c) {
    const config::Moe& m = c.moe();
    return {.hidden = c.hidden(),
            .experts = m.experts(),
            .top_k = m.top_k(),
            .ffn = m.ffn(),
            .shared_ffn = m.shared_ffn(),
            .router = RouterKind(m.router()),
            .balance = BalanceKind(m.balance().kind()),
            .balance_weight = m.balance().weight(),
            .z_loss = m.z_loss(),
            .norm_eps = c.norm_eps(),
            .init_std = c.init_std(),
            .out_std = out_std(c),
            .dropout = c.dropout()};
  }

  std::string name_;
  Attention attention_;
  std::optional<Mlp> mlp_;
  std::optional<Moe> moe_;
};

// The last norm, logits and their cross entropy, by chunks of rows: never more than a chunk of
// logits is in memory. The vocabulary is cut over tp; three numbers a token travel.
class Head : public Layer {
 public:
  Head(const config::Model& c, std::int64_t chunk, const Mesh& mesh)
      : eps_(c.norm_eps()),
        chunk_(chunk),
        norm_(make_parameter(mesh,
                             {"head.norm", {c.hidden()}, dense_weight(Cut::whole), Init::ones})),
        w_(make_parameter(mesh, {"head",
                                 {c.vocabulary(), c.hidden()},
                                 dense_weight(Cut::rows),
                                 Init::normal,
                                 c.init_std(),
                                 Role::head})),
        pack_("head", {&w_}) {}
  std::string name() const override { return "head"; }

  Tensor forward(const Tensor& x, Context& context) override {
    const Tensor h = enter(rms_norm(x, norm_, eps_), context);
    if (context.wants_logits) return linear(h, pack_)[0];
    const auto chunks = split_rows(h, chunk_);
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const std::int64_t end = begin + chunks[i].rows();
      const auto segment = [this, &context, begin, end](std::span<const Tensor> rows) {
        return std::vector<Tensor>{loss(rows[0], context, begin, end)};
      };
      const Tensor part =
          chunks.size() == 1 ? segment(chunks)[0] : recompute(segment, {chunks[i]})[0];
      context.statistics.losses[int(i)] = part.detached();
      Tape::root(part);
      begin = end;
    }
    return {};
  }
  void visit(const Visitor& visitor) override {
    visitor.parameter(norm_);
    visitor.parameter(w_);
    visitor.pack(pack_);
  }

 private:
  // Of the rows [begin, end) of the micro-batch, which are h.
  Tensor loss(const Tensor& h, const Context& context, std::int64_t begin, std::int64_t end) {
    const Mesh& mesh = *context.mesh;
    const Batch& batch = context.batch;
    const Tensor logits = linear(h, pack_)[0];
    const Tensor top = all_max(row_max(logits), mesh, axes::tp);
    LossParts parts =
        loss_parts(logits, top, batch.targets.rows(begin, end), w_.block().begin[0], axes::tp);
    parts = {all_reduce(parts.exp_sum, mesh, axes::tp), all_reduce(parts.picked, mesh, axes::tp)};
    return cross_entropy(parts, top, batch.mask.rows(begin, end), 1 / context.tokens);
  }

  double eps_;
  std::int64_t chunk_;
  Parameter norm_, w_;
  Pack pack_;
};

// A stream of random numbers that only the name decides: FNV-1a.
std::uint32_t stream_of(const std::string& name) {
  std::uint32_t hash = 2166136261u;
  for (const char c : name) hash = (hash ^ std::uint8_t(c)) * 16777619u;
  return hash & 0x3fffffff;  // the rest is for dropout and the like
}

}  // namespace

Transformer::Transformer(const config::Model& c, const ModelOptions& options, const Mesh& mesh)
    : mesh_(&mesh), type_(options.type) {
  rope_ = rope_table(options.positions, c.head_dim(), c.rope_base(), options.type, mesh.device());
  layers_.push_back(std::make_unique<Embedding>(c, mesh));
  for (int layer = 0; layer < int(c.layers()); ++layer)
    layers_.push_back(std::make_unique<TransformerLayer>(c, layer, mesh, &rope_));
  layers_.push_back(std::make_unique<Head>(c, options.head_chunk, mesh));
}

void Transformer::visit(const Visitor& visitor) {
  for (const auto& layer : layers_) layer->visit(visitor);
}

void Transformer::initialise(std::uint64_t seed) {
  visit({.parameter = [&](Parameter& w) {
    w.initialise(mesh_->device(), type_, seed, stream_of(w.name()));
  }});
}

ModelSize model_size(const config::Model& c, std::int64_t sequence) {
  const std::int64_t h = c.hidden(), q = c.heads() * c.head_dim(), kv = c.kv_heads() * c.head_dim();
  const std::int64_t attention = h * (2 * q + 2 * kv);
  ModelSize size;
  std::int64_t products = 0, norms = h;  // weights of products that a token meets
  for (std::int64_t layer = 0; layer < c.layers(); ++layer) {
    std::int64_t all = attention, active = attention;
    if (c.has_moe() && (layer + 1) % c.moe().every() == 0) {
      const config::Moe& m = c.moe();
      const std::int64_t expert = 3 * h * m.ffn(),
                         always = 3 * h * m.shared_ffn() + h * m.experts();
      all += m.experts() * expert + always;
      active += m.top_k() * expert + always;
    } else {
      all += 3 * h * c.ffn();
      active += 3 * h * c.ffn();
    }
    size.parameters += all;
    products += active;
    norms += 2 * h;
  }
  const std::int64_t table = c.vocabulary() * h;
  products += table;  // the head
  size.parameters += 2 * table + norms;
  size.active_parameters = products + table + norms;
  // Scores and weighted sums: 2 products of 2 q FLOPs for each of sequence / 2 keys, three times
  // over.
  const double causal = 6.0 * double(c.layers()) * double(q) * double(sequence);
  size.flops_per_token = 6.0 * double(products) + causal;
  return size;
}

}  // namespace pf
