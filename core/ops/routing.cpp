#include "core/ops/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace pf {

Routed route(const Tensor& logits, std::int64_t k, const Router& router, const Tensor& decided) {
  const std::int64_t tokens = logits.rows(), experts = logits.columns();
  const DType type = logits.dtype();
  require(type == accumulation(type), "route: logits are ", logits.text(),
          "; f32 or f64 is wanted");
  require(k >= 1 && k <= experts, "route: top ", k, " of ", experts, " experts");
  require(router.groups >= 1 && experts % router.groups == 0 && router.top_groups >= 1 &&
              router.top_groups <= router.groups && router.group_best >= 1 &&
              router.group_best <= experts / router.groups &&
              k <= experts / router.groups * router.top_groups,
          "route: top ", k, " of ", router.top_groups, " of ", router.groups, " groups of ",
          experts, " experts, ranked by their ", router.group_best, " best");
  require(!router.bias || (router.bias.size() == experts && router.bias.dtype() == type),
          "route: a bias ", router.bias ? router.bias.text() : "", " for ", logits.text());
  const Label label = row_wise("route", logits.label());
  Device& device = logits.device();
  const Tensor scores = Tensor::empty({tokens, experts}, type, device, label);
  const Tensor weights = Tensor::empty({tokens, k}, type, device, label);
  const Tensor lse = Tensor::empty({tokens}, type, device, label);
  Tensor chosen = decided;
  if (decided) {
    require(decided.shape() == Shape({tokens, k}) && decided.dtype() == DType::i32,
            "route: a choice ", decided.text(), " for ", logits.text());
    backend(logits).route_again(scores, weights, lse, chosen, logits, router);
  } else {
    chosen = Tensor::empty({tokens, k}, DType::i32, device, label);
    backend(logits).route(scores, weights, lse, chosen, logits, router);
  }
  const Tensor kept = router.kind == RouterKind::sigmoid_top_k ? logits : Tensor();
  const auto y =
      Tape::record({scores, weights, lse}, {logits}, false,
                   [scores, weights, chosen, kept, router](std::span<const Tensor> dys) {
                     const Tensor dlogits = Tensor::gradient_like(scores);
                     backend(scores).route_backward(dlogits, dys[0], dys[1], dys[2], scores,
                                                    weights, chosen, kept, router);
                     return std::vector<Tensor>{dlogits};
                   });
  return {y[0], y[1], y[2], chosen};
}

Tensor forced_choice(const Tensor& token, std::int64_t k, std::int64_t experts) {
  require(token.dtype() == DType::i64 && k >= 1 && k <= experts, "forced_choice: token is ",
          token.text(), "; top ", k, " of ", experts, " experts");
  Tensor chosen =
      Tensor::empty({token.size(), k}, DType::i32, token.device(), constant(token.label()));
  backend(token).forced_choice(chosen, token, experts);
  return chosen;
}

std::int64_t Capacity::choices(std::int64_t k, std::int64_t experts) const {
  return std::int64_t(std::ceil(factor * double(block * k) / double(experts)));
}

Tensor kept_choices(const Tensor& chosen, const Tensor& weights, std::int64_t experts,
                    const Capacity& capacity) {
  require(chosen.shape().dims() == 2 && weights && weights.shape() == chosen.shape() &&
              weights.dtype() == accumulation(weights.dtype()),
          "plan: chosen is ", chosen.text(), ", weights ", weights ? weights.text() : "none");
  require(chosen.rows() % capacity.block == 0, "plan: ", chosen.rows(),
          " rows are no whole blocks of ", capacity.block,
          " (the capacity's block); a layout must not cut one");
  Tensor kept = Tensor::empty(chosen.shape(), DType::i32, chosen.device(), chosen.label());
  backend(chosen).drop_choices(kept, chosen, weights, capacity.block,
                               capacity.choices(chosen.columns(), experts), experts);
  return kept;
}

Tensor choices_of(const Tensor& chosen, const Tensor& index, std::int64_t first,
                  std::int64_t count) {
  require(chosen.shape().dims() == 2 && chosen.dtype() == DType::i32 && first >= 0 && count > 0,
          "choices_of: experts ", first, " to ", first + count, " of ", chosen.text());
  Tensor part =
      Tensor::empty(chosen.shape(), DType::i32, chosen.device(),
                    meet("choices_of", Meeting::product, {chosen.label(), index.label()}));
  backend(chosen).choices_of(part, chosen, first, count);
  return part;
}

namespace {

// In `rows` sorted rows, of which padding fills what is left.
Plan sorted(const Tensor& kept, std::int64_t experts, std::int64_t rows, std::int64_t padded) {
  require(kept.shape().dims() == 2 && kept.dtype() == DType::i32, "plan: chosen is ", kept.text(),
          "; i32 [tokens, k] is wanted");
  Plan p;
  p.k = kept.columns();
  p.kept = kept;
  p.order = Tensor::empty({rows}, DType::i32, kept.device(), kept.label());
  p.place = Tensor::empty({kept.size()}, DType::i32, kept.device(), kept.label());
  p.counts = Tensor::empty({experts}, DType::i64, kept.device(), kept.label());
  backend(kept).plan(p.order, p.place, p.counts, kept, padded);
  return p;
}

}  // namespace

Plan plan(const Tensor& chosen, std::int64_t experts) {
  return sorted(chosen, experts, chosen.size(), 0);
}

Plan plan_kept(const Tensor& kept, std::int64_t experts, std::int64_t expected,
               std::int64_t padded) {
  if (padded > 0) return sorted(kept, experts, padded * experts, padded);
  Plan p = sorted(kept, experts, kept.size(), 0);
  const auto counts = backend(kept).read_counts(p.counts, expected);
  p.order = p.order.rows(0, std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  return p;
}

Plan plan(const Tensor& chosen, const Tensor& weights, std::int64_t experts,
          const Capacity& capacity) {
  if (capacity.block == 0) return plan(chosen, experts);
  const Tensor kept = kept_choices(chosen, weights, experts, capacity);
  const std::int64_t most = capacity.rows(chosen.rows(), chosen.columns(), experts);
  return plan_kept(kept, experts, std::min(chosen.size(), most * experts),
                   capacity.pads ? most : 0);
}

Permuted permute(const Tensor& x, const Tensor& weights, const Plan& plan) {
  require(x.rows() * plan.k == plan.place.size() && weights.size() == plan.place.size(),
          "permute: x is ", x.text(), ", weights ", weights.text(), " for ", plan.place.size(),
          " choices");
  const Label to_x = meet("permute", Meeting::product, {x.label(), plan.order.label()});
  const Label to_weights = meet("permute", Meeting::product, {weights.label(), plan.order.label()});
  const std::int64_t n = plan.order.size(), choices = plan.place.size();
  const Tensor y = Tensor::empty({n, x.columns()}, x.dtype(), x.device(), to_x);
  const Tensor w = Tensor::empty({n}, weights.dtype(), x.device(), to_weights);
  backend(x).take_rows(y, x, plan.order, plan.k);
  backend(x).take_rows(w.reshaped({n, 1}), weights.reshaped({choices, 1}), plan.order, 1);
  const auto out = Tape::record(
      {y, w}, {x, weights}, false,
      [plan, n, choices, of_weights = weights.shape(), x_slot = x.slot(),
       x_label = gradient_of(x.label()),
       weights_label = gradient_of(weights.label())](std::span<const Tensor> dys) {
        Tensor dx, dw;  // none for a constant
        if (const Tensor& dy = dys[0]) {
          dx = Tape::take_sum(x_slot);
          const bool adds = bool(dx);
          if (!adds)
            dx = Tensor::empty({choices / plan.k, dy.columns()}, dy.dtype(), dy.device(), x_label);
          backend(dx).sum_rows({dx, adds}, dy, plan.place, plan.k);
        }
        if (const Tensor& dy = dys[1]) {
          dw = Tensor::empty(of_weights, dy.dtype(), dy.device(), weights_label);
          backend(dw).sum_rows({dw.reshaped({choices, 1})}, dy.reshaped({n, 1}), plan.place, 1);
        }
        return std::vector<Tensor>{dx, dw};
      });
  return {out[0], out[1]};
}

Tensor combine(const Tensor& rows, const Plan& plan, const Axes& summed) {
  require(rows.rows() == plan.order.size(), "combine: rows are ", rows.text(), " for ",
          plan.order.size(), " choices");
  const Label met = meet("combine", Meeting::product, {rows.label(), plan.place.label()});
  const Tensor y = Tensor::empty({plan.place.size() / plan.k, rows.columns()}, rows.dtype(),
                                 rows.device(), sum("combine", met, Spread::experts, summed));
  backend(rows).sum_rows({y}, rows, plan.place, plan.k);
  return Tape::record(
      y, {rows}, false, [plan, label = gradient_of(rows.label())](const Tensor& dy) {
        Tensor drows =
            Tensor::empty({plan.order.size(), dy.columns()}, dy.dtype(), dy.device(), label);
        backend(dy).take_rows(drows, dy, plan.order, plan.k);
        return drows;
      });
}

Tensor count_choices(const Tensor& chosen, const Tensor& mask, const Tensor& segment,
                     std::int64_t segments, std::int64_t experts, const Axes& set) {
  require(chosen.dtype() == DType::i32 && mask.size() == chosen.rows() &&
              mask.dtype() == accumulation(mask.dtype()),
          "count_choices: chosen is ", chosen.text(), ", mask ", mask.text());
  require(!segment || (segment.size() == chosen.rows() && segment.dtype() == DType::i32),
          "count_choices: chosen is ", chosen.text(), ", segment ", segment ? segment.text() : "");
  Label label = meet("count_choices", Meeting::product, {chosen.label(), mask.label()});
  if (segment) label = meet("count_choices", Meeting::product, {label, segment.label()});
  Tensor counts = Tensor::empty({segments, experts}, mask.dtype(), mask.device(),
                                constant(sum("count_choices", label, Spread::rows, set)));
  backend(mask).count_choices(counts, chosen, mask, segment);
  return counts;
}

Tensor sum_of_chosen(const Tensor& scores, const Tensor& chosen, const Tensor& mask,
                     const Axes& set) {
  require(chosen.dtype() == DType::i32 && chosen.rows() == scores.rows() &&
              mask.size() == scores.rows() && mask.dtype() == scores.dtype() &&
              mask.dtype() == accumulation(mask.dtype()),
          "sum_of_chosen: scores are ", scores.text(), ", chosen ", chosen.text(), ", mask ",
          mask.text());
  const Label label =
      meet("sum_of_chosen", Meeting::product, {scores.label(), chosen.label(), mask.label()});
  Tensor sums = Tensor::empty({1, scores.columns()}, mask.dtype(), mask.device(),
                              constant(sum("sum_of_chosen", label, Spread::rows, set)));
  backend(mask).sum_of_chosen(sums, scores, chosen, mask);
  return sums;
}

}  // namespace pf
