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

Plan plan(const Tensor& chosen, std::int64_t experts) {
  return plan(chosen, {}, experts, {});
}

Plan plan(const Tensor& chosen, const Tensor& weights, std::int64_t experts,
          const Capacity& capacity) {
  require(chosen.shape().dims() == 2 && chosen.dtype() == DType::i32, "plan: chosen is ",
          chosen.text(), "; i32 [tokens, k] is wanted");
  Device& device = chosen.device();
  const bool drops = capacity.block > 0;
  Plan p;
  p.k = chosen.columns();
  std::int64_t rows = chosen.size(), padded = 0;
  p.kept = chosen;
  if (drops) {
    require(weights && weights.shape() == chosen.shape() &&
                weights.dtype() == accumulation(weights.dtype()),
            "plan: chosen is ", chosen.text(), ", weights ", weights ? weights.text() : "none");
    require(chosen.rows() % capacity.block == 0, "plan: ", chosen.rows(),
            " rows are no whole blocks of ", capacity.block,
            " (the capacity's block); a layout must not cut one");
    const std::int64_t most = capacity.choices(p.k, experts);
    const std::int64_t of_expert = most * (chosen.rows() / capacity.block);
    p.kept = Tensor::empty(chosen.shape(), DType::i32, device, chosen.label());
    backend(chosen).drop_choices(p.kept, chosen, weights, capacity.block, most, experts);
    if (capacity.pads) padded = of_expert;
    rows = capacity.pads ? padded * experts : std::min(rows, of_expert * experts);
  }
  p.order = Tensor::empty({std::max(rows, chosen.size())}, DType::i32, device, chosen.label());
  p.place = Tensor::empty({chosen.size()}, DType::i32, device, chosen.label());
  p.counts = Tensor::empty({experts}, DType::i64, device, chosen.label());
  backend(chosen).plan(p.order.rows(0, rows), p.place, p.counts, p.kept, padded);
  if (drops && !capacity.pads) {
    const auto counts = backend(chosen).read_counts(p.counts, rows);
    rows = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  }
  p.order = p.order.rows(0, rows);
  return p;
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
      [plan, n, choices, of_weights = weights.shape()](std::span<const Tensor> dys) {
        const Tensor dx = Tensor::empty({choices / plan.k, dys[0].columns()}, dys[0].dtype(),
                                        dys[0].device(), dys[0].label());
        const Tensor dw =
            Tensor::empty(of_weights, dys[1].dtype(), dys[1].device(), dys[1].label());
        backend(dx).sum_rows(dx, dys[0], plan.place, plan.k);
        backend(dx).sum_rows(dw.reshaped({choices, 1}), dys[1].reshaped({n, 1}), plan.place, 1);
        return std::vector<Tensor>{dx, dw};
      });
  return {out[0], out[1]};
}

Tensor combine(const Tensor& rows, const Plan& plan) {
  require(rows.rows() == plan.order.size(), "combine: rows are ", rows.text(), " for ",
          plan.order.size(), " choices");
  const Tensor y =
      Tensor::empty({plan.place.size() / plan.k, rows.columns()}, rows.dtype(), rows.device(),
                    meet("combine", Meeting::product, {rows.label(), plan.place.label()}));
  backend(rows).sum_rows(y, rows, plan.place, plan.k);
  return Tape::record(y, {rows}, false, [plan](const Tensor& dy) {
    Tensor drows =
        Tensor::empty({plan.order.size(), dy.columns()}, dy.dtype(), dy.device(), dy.label());
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
