// Routing and losses on the CPU.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/cpu/cpu_backend.h"
#include "core/dtype.h"
#include "core/trace.h"

namespace pf {

void CpuBackend::route(const Tensor& scores, const Tensor& weights, const Tensor& lse,
                       const Tensor& chosen, const Tensor& logits, const Router& router) {
  const Span span("kernel", "route");
  over_rows(logits.rows(), 4 * logits.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(logits).route(scores, weights, lse, chosen, logits, router, false, begin, end);
  });
}

void CpuBackend::route_again(const Tensor& scores, const Tensor& weights, const Tensor& lse,
                             const Tensor& chosen, const Tensor& logits, const Router& router) {
  const Span span("kernel", "route_again");
  over_rows(logits.rows(), logits.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(logits).route(scores, weights, lse, chosen, logits, router, true, begin, end);
  });
}

void CpuBackend::route_backward(const Tensor& dlogits, const Tensor& dscores,
                                const Tensor& dweights, const Tensor& dlse, const Tensor& scores,
                                const Tensor& weights, const Tensor& chosen, const Tensor& logits,
                                const Router& router) {
  const Span span("kernel", "route_backward");
  over_rows(dlogits.rows(), dlogits.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(dlogits).route_backward(dlogits, dscores, dweights, dlse, scores, weights, chosen, logits,
                               router, begin, end);
  });
}

void CpuBackend::forced_choice(const Tensor& chosen, const Tensor& token, std::int64_t experts) {
  const Span span("kernel", "forced_choice");
  auto* to = chosen.data<std::int32_t>();
  const auto* from = token.data<std::int64_t>();
  const std::int64_t k = chosen.columns(), pitch = chosen.pitch();
  for (std::int64_t t = 0; t < chosen.rows(); ++t) {
    for (std::int64_t j = 0; j < k; ++j)
      to[t * pitch + j] = std::int32_t((from[t] % experts * k + j) % experts);
    std::sort(to + t * pitch, to + t * pitch + k);
  }
}

void CpuBackend::drop_choices(const Tensor& kept, const Tensor& chosen, const Tensor& weights,
                              std::int64_t block, std::int64_t capacity, std::int64_t experts) {
  const Span span("kernel", "drop_choices");
  const std::int64_t k = chosen.columns();
  const auto drop = [&]<class A>(const A* weight, std::int64_t begin, std::int64_t end) {
    std::vector<std::vector<std::pair<A, std::int32_t*>>> of(static_cast<std::size_t>(experts));
    for (std::int64_t b = begin; b < end; ++b) {
      for (auto& choices : of) choices.clear();
      for (std::int64_t r = b * block; r < (b + 1) * block; ++r)
        for (std::int64_t j = 0; j < k; ++j) {
          auto* to = kept.data<std::int32_t>() + r * kept.pitch() + j;
          *to = chosen.data<std::int32_t>()[r * chosen.pitch() + j];
          of[std::size_t(*to)].emplace_back(weight[r * weights.pitch() + j], to);
        }
      for (auto& choices : of) {
        if (std::ssize(choices) <= capacity) continue;
        // Rows are in order, and stay so among equal weights.
        std::ranges::stable_sort(choices, [](auto& a, auto& c) { return a.first > c.first; });
        for (auto at = choices.begin() + capacity; at != choices.end(); ++at) *at->second = -1;
      }
    }
  };
  share(chosen.rows() / block, 1, block * k * 16, [&](std::int64_t begin, std::int64_t end, int) {
    if (weights.dtype() == DType::f64)
      drop(weights.data<double>(), begin, end);
    else
      drop(weights.data<float>(), begin, end);
  });
}

void CpuBackend::choices_of(const Tensor& part, const Tensor& chosen, std::int64_t first,
                            std::int64_t count) {
  const Span span("kernel", "choices_of");
  for (std::int64_t t = 0; t < chosen.rows(); ++t)
    for (std::int64_t j = 0; j < chosen.columns(); ++j) {
      const std::int64_t e = chosen.data<std::int32_t>()[t * chosen.pitch() + j] - first;
      part.data<std::int32_t>()[t * part.pitch() + j] = std::int32_t(e >= 0 && e < count ? e : -1);
    }
}

// A counting sort.
void CpuBackend::plan(const Tensor& order, const Tensor& place, const Tensor& counts,
                      const Tensor& chosen, std::int64_t padded) {
  const Span span("kernel", "plan");
  auto* sorted = order.data<std::int32_t>();
  auto* places = place.data<std::int32_t>();
  auto* count = counts.data<std::int64_t>();
  const std::int64_t experts = counts.size(), k = chosen.columns(), pitch = chosen.pitch();
  const auto* choice = chosen.data<std::int32_t>();
  const auto each = [&](auto f) {
    for (std::int64_t t = 0; t < chosen.rows(); ++t)
      for (std::int64_t j = 0; j < k; ++j) f(t * k + j, choice[t * pitch + j]);
  };
  std::fill_n(count, experts, padded);
  if (padded == 0)
    each([&](std::int64_t, std::int32_t e) {
      if (e >= 0) ++count[e];
    });
  else
    std::fill_n(sorted, order.size(), -1);
  std::vector<std::int64_t> next(std::size_t(experts), 0);
  for (std::int64_t e = 1; e < experts; ++e)
    next[std::size_t(e)] = next[std::size_t(e - 1)] + count[e - 1];
  each([&](std::int64_t number, std::int32_t e) {
    places[number] = e < 0 ? -1 : std::int32_t(next[std::size_t(e)]++);
    if (e >= 0) sorted[places[number]] = std::int32_t(number);
  });
}

void CpuBackend::count_choices(const Tensor& counts, const Tensor& chosen, const Tensor& mask,
                               const Tensor& segment) {
  const Span span("kernel", "count_choices");
  fill(counts, 0);
  const auto* segments = segment ? segment.data<std::int32_t>() : nullptr;
  const auto* choice = chosen.data<std::int32_t>();
  const auto count = [&]<class A>(A* to, const A* weight) {
    for (std::int64_t t = 0; t < chosen.rows(); ++t) {
      A* row = to + (segments ? segments[t] : 0) * counts.pitch();
      for (std::int64_t j = 0; j < chosen.columns(); ++j)
        if (const std::int32_t e = choice[t * chosen.pitch() + j]; e >= 0) row[e] += weight[t];
    }
  };
  if (counts.dtype() == DType::f64)
    count(counts.data<double>(), mask.data<double>());
  else
    count(counts.data<float>(), mask.data<float>());
}

void CpuBackend::sum_of_chosen(const Tensor& sums, const Tensor& scores, const Tensor& chosen,
                               const Tensor& mask) {
  const Span span("kernel", "sum_of_chosen");
  fill(sums, 0);
  const auto* choice = chosen.data<std::int32_t>();
  const auto add_up = [&]<class A>(A* to, const A* from, const A* weight) {
    for (std::int64_t t = 0; t < chosen.rows(); ++t)
      for (std::int64_t j = 0; j < chosen.columns(); ++j) {
        const std::int32_t e = choice[t * chosen.pitch() + j];
        to[e] += weight[t] * from[t * scores.pitch() + e];
      }
  };
  if (sums.dtype() == DType::f64)
    add_up(sums.data<double>(), scores.data<double>(), mask.data<double>());
  else
    add_up(sums.data<float>(), scores.data<float>(), mask.data<float>());
}

// --- Losses --------------------------------------------------------------------------------------

void CpuBackend::row_max(const Tensor& top, const Tensor& logits) {
  const Span span("kernel", "row_max");
  over_rows(logits.rows(), logits.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(logits).row_max(top, logits, begin, end);
  });
}

void CpuBackend::loss_parts(const Tensor& exp_sum, const Tensor& picked, const Tensor& logits,
                            const Tensor& top, const Tensor& target, std::int64_t first) {
  const Span span("kernel", "loss_parts");
  over_rows(logits.rows(), logits.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(logits).loss_parts(exp_sum, picked, logits, top, target, first, begin, end);
  });
}

void CpuBackend::loss_parts_backward(const Tensor& dlogits, const Tensor& dexp_sum,
                                     const Tensor& dpicked, const Tensor& logits, const Tensor& top,
                                     const Tensor& target, std::int64_t first) {
  const Span span("kernel", "loss_parts_backward");
  over_rows(logits.rows(), logits.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(logits).loss_parts_backward(dlogits, dexp_sum, dpicked, logits, top, target, first, begin,
                                   end);
  });
}

void CpuBackend::cross_entropy(const Tensor& loss, const Tensor& exp_sum, const Tensor& picked,
                               const Tensor& top, const Tensor& mask, double factor) {
  const Span span("kernel", "cross_entropy");
  const double sum = add_up(mask.size(), 16, [&](std::int64_t begin, std::int64_t end) {
    return of(loss).cross_entropy(exp_sum, picked, top, mask, begin, end);
  });
  fill(loss, factor * sum);
}

void CpuBackend::cross_entropy_backward(const Tensor& dexp_sum, const Tensor& dpicked,
                                        const Tensor& dloss, const Tensor& exp_sum,
                                        const Tensor& mask, double factor) {
  const Span span("kernel", "cross_entropy_backward");
  const double seed = factor * dloss.item();
  over_elements(mask, [&](std::int64_t begin, std::int64_t end, int) {
    of(mask).cross_entropy_backward(dexp_sum, dpicked, seed, exp_sum, mask, begin, end);
  });
}

// Workers own columns: rows are added in order.
void CpuBackend::segment_sum(const Tensor& y, const Tensor& x, const Tensor& mask,
                             const Tensor& segment) {
  const Span span("kernel", "segment_sum");
  share(y.columns(), 32, x.rows(), [&](std::int64_t begin, std::int64_t end, int) {
    of(x).segment_sum(y, x, mask, segment, begin, end);
  });
}

void CpuBackend::segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& mask,
                                      const Tensor& segment) {
  const Span span("kernel", "segment_sum_backward");
  over_rows(dx.rows(), dx.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(dx).segment_sum_backward(dx, dy, mask, segment, begin, end);
  });
}

void CpuBackend::dot(const Tensor& y, const Tensor& a, const Tensor& b, double factor) {
  const Span span("kernel", "dot");
  const double sum = add_up(a.size(), 1, [&](std::int64_t begin, std::int64_t end) {
    return of(a).dot(a, b, begin, end);
  });
  fill(y, factor * sum);
}

void CpuBackend::dot_backward(const Tensor& da, const Tensor& dy, const Tensor& b, double factor) {
  const Span span("kernel", "dot_backward");
  scale(da, b, factor * dy.item());
}

void CpuBackend::normalise_rows(const Tensor& y, const Tensor& x) {
  const Span span("kernel", "normalise_rows");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).normalise_rows(y, x, begin, end);
  });
}

namespace {

// How many values `mask` has for x: one for each row, or for each element of a one-dim x.
std::int64_t masked_rows(const Tensor& x) {
  return x.shape().dims() == 1 ? x.size() : x.rows();
}

}  // namespace

void CpuBackend::square_sum(const Tensor& y, const Tensor& x, const Tensor& mask, double factor) {
  const Span span("kernel", "square_sum");
  const std::int64_t rows = masked_rows(x), columns = x.size() / std::max<std::int64_t>(1, rows);
  const double sum = add_up(rows, columns, [&](std::int64_t begin, std::int64_t end) {
    return of(x).square_sum(x, mask, begin, end);
  });
  fill(y, factor * sum);
}

void CpuBackend::square_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                                     const Tensor& mask, double factor) {
  const Span span("kernel", "square_sum_backward");
  const double seed = factor * dy.item();
  const std::int64_t rows = masked_rows(x), columns = x.size() / std::max<std::int64_t>(1, rows);
  over_rows(rows, columns, [&](std::int64_t begin, std::int64_t end, int) {
    of(x).square_sum_backward(dx, seed, x, mask, begin, end);
  });
}

}  // namespace pf
