#include "models/moe.h"

#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "core/ops/loss.h"
#include "models/balance.h"
#include "models/weights.h"
#include "parallel/table.h"

namespace pf {
namespace {

constexpr double mixed_share = 0.01;  // of micro beside global (Qiu et al. 2025, section 5)

const Axes tokens_cut = axes::tp * axes::cp;

// Blocks of rows are blocks of consecutive tokens.
void require_blocks(const Batch& batch, std::int64_t block) {
  for (const RowRange& range : batch.queries)
    require(range.begin % block == 0 && range.end % block == 0, "capacity: this rank's tokens ",
            range.begin, " to ", range.end, " are no whole blocks of ", block,
            "; a layout must not cut one");
}

}  // namespace

Moe::Moe(const std::string& prefix, int layer, const MoeConfig& c, const Mesh& mesh)
    : layer_(layer),
      config_(c),
      norm_(prefix + ".moe.norm", c.norm, mesh),
      router_(make_parameter(mesh, {prefix + ".moe.router",
                                    {c.experts, c.hidden},
                                    dense_weight(Cut::whole),
                                    Init::normal,
                                    c.init_std,
                                    Role::router})),
      gate_(make_parameter(mesh, {prefix + ".moe.experts.gate",
                                  {c.experts, c.ffn, c.hidden},
                                  expert_weight(Cut::rows),
                                  Init::normal,
                                  c.init_std})),
      up_(make_parameter(mesh, {prefix + ".moe.experts.up",
                                {c.experts, c.ffn, c.hidden},
                                expert_weight(Cut::rows),
                                Init::normal,
                                c.init_std})),
      down_(make_parameter(mesh, {prefix + ".moe.experts.down",
                                  {c.experts, c.hidden, c.ffn},
                                  expert_weight(Cut::columns),
                                  Init::normal,
                                  c.out_std})),
      router_pack_(prefix + ".moe.router", {&router_}),
      gate_up_(prefix + ".moe.experts.gate_up", {&gate_, &up_}),
      down_pack_(prefix + ".moe.experts.down", {&down_}) {
  if (c.shared_ffn > 0)
    shared_.emplace(prefix + ".moe.shared",
                    MlpConfig{.hidden = c.hidden,
                              .ffn = c.shared_ffn,
                              .init_std = c.init_std,
                              .out_std = c.out_std,
                              .has_gate = c.has_shared_gate},
                    mesh);
  if (c.bias_rate > 0) {
    make_bias(bias_, mesh, prefix + ".moe.router.bias", c.experts, dense_weight(Cut::whole));
    bias_->freeze();
  }
}

Tensor Moe::forward(const Tensor& x, Context& context) {
  const PurposeScope of_part("router");
  const auto normed = [=, this] { return norm_.forward(x); };
  const Tensor h = normed();
  // The router works in the accumulation type: near-ties must not be decided by rounding.
  const auto widened = [h] { return cast(h, accumulation(h.dtype())); };
  const Tensor wide = widened();
  const Tensor logits = linear(wide, router_pack_)[0];
  if (config_.rebuilds && wide.dtype() != h.dtype()) Tape::rebuild(wide, widened);
  Tensor& decided = context.statistics.chosen[layer_];
  if (config_.is_forced)
    decided = forced_choice(slice(of_stage(context.batch.token), *context.mesh, axes::tp),
                            config_.top_k, config_.experts);
  Router router = config_.router;
  if (bias_) router.bias = bias_->value();
  const Routed routed = route(logits, config_.top_k, router, decided);
  if (Tape::is_recording() || context.is_training) decided = routed.chosen;
  if (context.is_training)
    auxiliary_losses(routed, context);
  else
    keep_choices_of_targets(routed, context);

  const Outputs y = experts(h, routed, context);
  // Last: backward makes it first, and all that is made of it later.
  if (config_.rebuilds && keeps_own(context)) Tape::rebuild(h, normed);
  const PurposeScope of_sum("residual");
  // Drops the same elements of both.
  const auto kept = [&](const Tensor& part) {
    return residual_dropout(part, config_.dropout, layer_, 1, context);
  };
  return shared_ ? add(x, kept(y.routed), kept(y.shared)) : add(x, kept(y.routed));
}

Moe::Outputs Moe::experts(const Tensor& h, const Routed& routed, Context& context) {
  const PurposeScope of_part("dispatch");
  const Mesh& mesh = *context.mesh;
  const Capacity capacity = context.is_training ? config_.capacity : Capacity{};
  if (capacity.block > 0) require_blocks(context.batch, capacity.block);
  Sending sent =
      send(h, {routed.chosen, routed.weights, config_.experts, capacity}, config_.dispatcher, mesh);
  if (capacity.block > 0)
    context.statistics.kept[layer_] =
        count_choices(sent.there.kept, slice(context.batch.present, mesh, axes::tp), {}, 1,
                      config_.experts, tokens_cut);
  const Tensor of_shared = shared_ ? of_shared_expert(h, context) : Tensor();
  const Dispatched there = receive(std::move(sent), mesh);
  const Tensor outputs = of_experts(there.rows);
  if (config_.rebuilds && config_.dispatcher == Dispatcher::all_to_all && keeps_own(context) &&
      mesh.size(axes::etp * axes::ep) == 1)
    Tape::rebuild(there.rows.x, [h, weights = routed.weights, order = there.order] {
      return permute(h, weights, order).x;
    });
  return {bring_back(outputs, there, mesh), of_shared};
}

Tensor Moe::of_shared_expert(const Tensor& h, Context& context) {
  const PurposeScope of_part("shared");
  return shared_->forward(h, context);
}

Tensor Moe::of_experts(const ExpertRows& rows) {
  const PurposeScope of_part("experts");
  const auto gate_up = grouped_linear(rows, gate_up_);
  return grouped_linear_of_swiglu(rows, gate_up[0], gate_up[1], down_pack_);
}

void Moe::auxiliary_losses(const Routed& routed, Context& context) const {
  const Batch& batch = context.batch;
  const Tensor mask = slice(batch.present, *context.mesh, axes::tp);
  const Tensor counts = count_choices(routed.chosen, mask, {}, 1, config_.experts, tokens_cut);
  context.statistics.counts[layer_] = counts;

  const double factor = config_.balance_weight * double(config_.experts) / context.tokens;
  const auto keep = [&](const Tensor& loss, std::map<int, Tensor>& slot) {
    slot[layer_] = loss.detached();
    Tape::root(loss);
  };
  std::vector<Tensor> losses;
  if (config_.balance == BalanceKind::global || config_.balance == BalanceKind::mixed) {
    const Tensor f = context.balance->shares(layer_, context.micro_batch, counts);
    const Tensor p = segment_sum(routed.scores, mask, {}, 1, tokens_cut);
    losses.push_back(dot(p, f, factor));
    context.balance->add_loss(layer_, context.micro_batch, losses.back(), p, factor);
  }
  if (config_.balance == BalanceKind::micro || config_.balance == BalanceKind::mixed) {
    const double share = config_.balance == BalanceKind::mixed ? mixed_share : 1;
    const Tensor f = normalise_rows(all_reduce(counts, *context.mesh, tokens_cut));
    losses.push_back(dot(segment_sum(routed.scores, mask, {}, 1, tokens_cut), f, share * factor));
  }
  if (config_.balance == BalanceKind::sequence) {
    const Tensor of = slice(batch.sequence, *context.mesh, axes::tp);
    const Tensor c =
        count_choices(routed.chosen, mask, of, batch.sequences, config_.experts, tokens_cut);
    const Tensor f = normalise_rows(all_reduce(c, *context.mesh, tokens_cut));
    losses.push_back(
        dot(segment_sum(routed.scores, mask, of, batch.sequences, tokens_cut), f, factor));
  }
  for (std::size_t i = 0; i < losses.size(); ++i)
    keep(losses[i],
         i == 0 ? context.statistics.balance_losses : context.statistics.second_balance_losses);
  if (config_.z_loss > 0)
    keep(square_sum(routed.lse, mask, config_.z_loss / context.tokens),
         context.statistics.z_losses);
}

void Moe::keep_choices_of_targets(const Routed& routed, Context& context) const {
  const Tensor mask = slice(context.batch.mask, *context.mesh, axes::tp);
  context.statistics.counts[layer_] =
      count_choices(routed.chosen, mask, {}, 1, config_.experts, tokens_cut);
  context.statistics.scores[layer_] = sum_of_chosen(routed.scores, routed.chosen, mask, tokens_cut);
}

void Moe::update_bias(std::span<const double> counts) {
  if (!bias_) return;
  require(std::ssize(counts) == config_.experts, "update_bias: ", counts.size(), " counts for ",
          config_.experts, " experts");
  const double mean = std::accumulate(counts.begin(), counts.end(), 0.0) / double(config_.experts);
  const Tensor change = Tensor::like(bias_->value());
  for (std::int64_t e = 0; e < config_.experts; ++e) {
    const double apart = mean - counts[std::size_t(e)];
    backend(change).fill(change.rows(e, e + 1), apart > 0   ? config_.bias_rate
                                                : apart < 0 ? -config_.bias_rate
                                                            : 0);
  }
  const Tensor terms[] = {bias_->value(), change};
  backend(change).add(bias_->value(), terms);
  bias_->changed();
}

void Moe::visit(const Visitor& visitor) {
  norm_.visit(visitor);
  visitor.parameter(router_);
  if (bias_) visitor.parameter(*bias_);
  for (Parameter* w : {&gate_, &up_, &down_}) visitor.parameter(*w);
  for (Pack* pack : {&router_pack_, &gate_up_, &down_pack_}) visitor.pack(*pack);
  if (shared_) shared_->visit(visitor);
}

}  // namespace pf
