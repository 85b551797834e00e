#include "models/ends.h"

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "core/ops/rows.h"
#include "core/purpose.h"
#include "models/weights.h"
#include "parallel/table.h"

namespace pf {
namespace {

// Shared by embedding and head where they are tied. Ranks apart hold a copy each.
WeightSpec embedding_weight(const config::Model& c, bool is_apart) {
  Label label = dense_weight(Cut::rows);
  if (c.tied() && is_apart) label = label.with(axes::pp, Spread::replicated);
  return {
      "embedding", {c.vocabulary(), c.hidden()}, label, Init::normal, c.init_std(), Role::embedding,
      true};
}

}  // namespace

Embedding::Embedding(const config::Model& c, bool is_apart, const Mesh& mesh)
    : offset_(c.position_offset()), w_(make_parameter(mesh, embedding_weight(c, is_apart))) {
  if (c.position() == config::Model::learned)
    make_parameter(positions_, mesh,
                   {"positions",
                    {c.max_positions() + offset_, c.hidden()},
                    dense_weight(Cut::whole),
                    Init::normal,
                    c.init_std(),
                    Role::embedding});
}

Tensor Embedding::forward(const Tensor&, Context& context) {
  const PurposeScope of_part("embedding");
  Tensor x = leave(embedding(of_stage(context.batch.ids), w_, context.type), context);
  if (!positions_) return x;
  const Tensor at = slice(of_stage(context.batch.position), *context.mesh, axes::tp);
  return add(x, embedding(at, *positions_, context.type, offset_));
}

void Embedding::visit_parts(const Visitor& visitor) {
  visitor.parameter(w_);
  if (positions_) visitor.parameter(*positions_);
}

Head::Head(const config::Model& c, std::int64_t chunk, Parameter* tied, const Mesh& mesh)
    : chunk_(chunk), norm_("head.norm", norm_of(c), mesh), w_(tied) {
  if (tied == nullptr)
    w_ = &make_parameter(own_, mesh,
                         c.tied() ? embedding_weight(c, true)
                                  : WeightSpec{"head",
                                               {c.vocabulary(), c.hidden()},
                                               dense_weight(Cut::rows),
                                               Init::normal,
                                               c.init_std(),
                                               Role::head,
                                               true});
  pack_.emplace("head", std::vector<Parameter*>{w_});
}

Tensor Head::forward(const Tensor& x, Context& context) {
  const PurposeScope of_part("head");
  const Tensor h = enter(norm_.forward(x), context);
  if (context.wants_logits) return linear(h, *pack_)[0];
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

void Head::visit_parts(const Visitor& visitor) {
  norm_.visit(visitor);
  if (own_) visitor.parameter(*own_);
  visitor.pack(*pack_);
}

Tensor Head::loss(const Tensor& h, const Context& context, std::int64_t begin, std::int64_t end) {
  const Mesh& mesh = *context.mesh;
  const Batch& batch = context.batch;
  const Tensor logits = linear(h, *pack_)[0];
  const Tensor top = all_max(row_max(logits), mesh, axes::tp);
  LossParts parts =
      loss_parts(logits, top, batch.targets.rows(begin, end), w_->block().begin[0], axes::tp);
  parts = {all_reduce(parts.exp_sum, mesh, axes::tp), all_reduce(parts.picked, mesh, axes::tp)};
  return cross_entropy(parts, top, batch.mask.rows(begin, end), 1 / context.targets);
}

}  // namespace pf
