#include "core/ops/loss.h"

#include "core/backend.h"
#include "core/error.h"

namespace pf {
namespace {

// A sum of all elements on this rank: what varies becomes partial.
Tensor scalar_of(const Tensor& x, const Label& label) {
  return Tensor::empty({}, accumulation(x.dtype()), x.device(), total(label));
}

}  // namespace

Tensor row_max(const Tensor& logits) {
  Tensor top = Tensor::empty({logits.rows()}, accumulation(logits.dtype()), logits.device(),
                             constant(logits.label()));
  backend(logits).row_max(top, logits);
  return top;
}

LossParts loss_parts(const Tensor& logits, const Tensor& top, const Tensor& target,
                     std::int64_t first, const Axes& set) {
  require(top.size() == logits.rows() && top.dtype() == accumulation(logits.dtype()) &&
              target.size() == logits.rows() && target.dtype() == DType::i32,
          "loss_parts: logits are ", logits.text(), ", top ", top.text(), ", target ",
          target.text());
  Label label = meet("loss_parts", Meeting::any, {logits.label(), top.label(), target.label()});
  label = sum("loss_parts", label, Spread::columns, set);
  const Tensor exp_sum = Tensor::empty({logits.rows()}, top.dtype(), logits.device(), label);
  const Tensor picked = Tensor::empty({logits.rows()}, top.dtype(), logits.device(), label);
  backend(logits).loss_parts(exp_sum, picked, logits, top, target, first);
  const auto y = Tape::record({exp_sum, picked}, {logits}, false,
                              [logits, top, target, first](std::span<const Tensor> dys) {
                                const Tensor dlogits = Tensor::gradient_like(logits);
                                backend(logits).loss_parts_backward(dlogits, dys[0], dys[1], logits,
                                                                    top, target, first);
                                return std::vector<Tensor>{dlogits};
                              });
  return {y[0], y[1]};
}

Tensor cross_entropy(const LossParts& parts, const Tensor& top, const Tensor& mask, double factor) {
  const Tensor& exp_sum = parts.exp_sum;
  for (const Tensor& x : {parts.picked, top, mask})
    require(x.shape() == exp_sum.shape() && x.dtype() == exp_sum.dtype(), "cross_entropy: exp_sum ",
            exp_sum.text(), ", picked ", parts.picked.text(), ", top ", top.text(), ", mask ",
            mask.text());
  const Label label = meet("cross_entropy", Meeting::any,
                           {exp_sum.label(), parts.picked.label(), top.label(), mask.label()});
  const Tensor loss = scalar_of(exp_sum, label);
  backend(loss).cross_entropy(loss, exp_sum, parts.picked, top, mask, factor);
  return Tape::record(loss, {exp_sum, parts.picked}, false,
                      [exp_sum, mask, factor, like = parts.picked](const Tensor& dy) {
                        const Tensor dexp_sum = Tensor::gradient_like(exp_sum);
                        const Tensor dpicked = Tensor::gradient_like(like);
                        backend(dy).cross_entropy_backward(dexp_sum, dpicked, dy, exp_sum, mask,
                                                           factor);
                        return std::vector<Tensor>{dexp_sum, dpicked};
                      });
}

Tensor segment_sum(const Tensor& x, const Tensor& mask, const Tensor& segment,
                   std::int64_t segments, const Axes& set) {
  require(mask.size() == x.rows() && mask.dtype() == accumulation(x.dtype()), "segment_sum: x is ",
          x.text(), ", mask ", mask.text());
  require(!segment || (segment.size() == x.rows() && segment.dtype() == DType::i32),
          "segment_sum: x is ", x.text(), ", segment ", segment ? segment.text() : "");
  Label label = meet("segment_sum", Meeting::product, {x.label(), mask.label()});
  if (segment) label = meet("segment_sum", Meeting::product, {label, segment.label()});
  const Tensor y = Tensor::empty({segments, x.columns()}, mask.dtype(), x.device(),
                                 sum("segment_sum", label, Spread::rows, set));
  backend(x).segment_sum(y, x, mask, segment);
  return Tape::record(y, {x}, false,
                      [mask, segment, rows = x.rows(), type = x.dtype(),
                       label = gradient_of(x.label())](const Tensor& dy) {
                        Tensor dx = Tensor::empty({rows, dy.columns()}, type, dy.device(), label);
                        backend(dy).segment_sum_backward(dx, dy, mask, segment);
                        return dx;
                      });
}

Tensor dot(const Tensor& a, const Tensor& b, double factor) {
  require(a.shape() == b.shape() && a.dtype() == b.dtype(), "dot: ", a.text(), " and ", b.text());
  require(b.label().constant, "dot: no gradient flows to b, so it must be a constant: ", b.text());
  const Tensor y = scalar_of(a, meet("dot", Meeting::product, {a.label(), b.label()}));
  backend(a).dot(y, a, b, factor);
  return Tape::record(y, {a}, false, [b, factor, label = gradient_of(a.label())](const Tensor& dy) {
    Tensor da = Tensor::empty(b.shape(), b.dtype(), b.device(), label);
    backend(dy).dot_backward(da, dy, b, factor);
    return da;
  });
}

Tensor normalise_rows(const Tensor& x) {
  require(x.label().constant, "normalise_rows: a constant is wanted, found ", x.text());
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device(), row_wise("normalise_rows", x.label()));
  backend(x).normalise_rows(y, x);
  return y;
}

Tensor square_sum(const Tensor& x, const Tensor& mask, double factor) {
  require(x.size() == mask.size() && mask.dtype() == accumulation(x.dtype()), "square_sum: x is ",
          x.text(), ", mask ", mask.text());
  const Tensor y = scalar_of(x, meet("square_sum", Meeting::any, {x.label(), mask.label()}));
  backend(x).square_sum(y, x, mask, factor);
  return Tape::record(y, {x}, false, [x, mask, factor](const Tensor& dy) {
    Tensor dx = Tensor::gradient_like(x);
    backend(dy).square_sum_backward(dx, dy, x, mask, factor);
    return dx;
  });
}

}  // namespace pf
