// Kernels of routing and of losses of the CPU against plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "tests/core/kernels_reference.h"

namespace pf::test {
namespace {

using Row = std::vector<double>;

Row row_of(const Table& x, std::int64_t r) {
  const auto begin = x.values.begin() + r * x.columns;
  return {begin, begin + x.columns};
}

Row softmax(Row x) {
  const double top = *std::ranges::max_element(x);
  double sum = 0;
  for (double& value : x) sum += value = std::exp(value - top);
  for (double& value : x) value /= sum;
  return x;
}

double log_sum(const Row& x) {
  double sum = 0;
  for (double value : x) sum += std::exp(value);
  return std::log(sum);
}

std::vector<int> largest_of(const Row& x, std::int64_t k) {
  std::vector<int> numbers(x.size());
  std::iota(numbers.begin(), numbers.end(), 0);
  std::ranges::stable_sort(numbers,
                           [&](int a, int b) { return x[std::size_t(a)] > x[std::size_t(b)]; });
  numbers.resize(std::size_t(k));
  std::ranges::sort(numbers);
  return numbers;
}

struct Routed {
  Tensor scores, weights, lse, chosen;
};
Routed route(Machine& machine, const Tensor& logits, std::int64_t k, const Router& router) {
  const std::int64_t n = logits.rows();
  Routed y{machine.empty(logits.shape(), machine.sums()), machine.empty({n, k}, machine.sums()),
           machine.empty({n}, machine.sums()), machine.empty({n, k}, DType::i32)};
  machine.backend().route(y.scores, y.weights, y.lse, y.chosen, logits, router);
  return y;
}

constexpr std::array router_kinds{RouterKind::softmax_top_k, RouterKind::top_k_softmax};
constexpr std::array<std::pair<int, int>, 5> router_sizes{
    {{8, 2}, {1, 1}, {60, 60}, {128, 8}, {517, 64}}};

TEST(RoutingKernels, TheLargestLogitsAreChosenAndWeighed) {
  on_each_machine([](Machine& machine) {
    for (auto [experts, k] : router_sizes)
      for (RouterKind kind : router_kinds) {
        const Tensor logits = machine.random({43, experts}, machine.sums(), 1);
        // Ties: only a few different numbers.
        for (std::int64_t r = 0; r < 20; ++r)
          for (std::int64_t e = 0; e < experts; ++e)
            put(logits, r, e, std::round(2 * table(logits.rows(r, r + 1))[e]));
        const Routed y = route(machine, logits, k, {kind});
        for (std::int64_t r = 0; r < 43; ++r) {
          const Row x = row_of(table(logits), r), scores = softmax(x);
          const std::vector<int> chosen = largest_of(x, k);
          Row picked;
          for (int e : chosen)
            picked.push_back(kind == RouterKind::softmax_top_k ? scores[std::size_t(e)]
                                                               : x[std::size_t(e)]);
          if (kind == RouterKind::top_k_softmax) picked = softmax(picked);
          ASSERT_EQ(row_of(table(y.chosen), r), Row(chosen.begin(), chosen.end())) << "row " << r;
          expect_close(y.scores.rows(r, r + 1), {1, experts, scores});
          expect_close(y.weights.rows(r, r + 1), {1, k, picked});
          expect_close(y.lse.rows(r, r + 1), {1, 1, {log_sum(x)}});
        }
        Routed again{machine.empty(y.scores.shape(), machine.sums()),
                     machine.empty(y.weights.shape(), machine.sums()),
                     machine.empty(y.lse.shape(), machine.sums()), y.chosen};
        machine.backend().route_again(again.scores, again.weights, again.lse, y.chosen, logits,
                                      {kind});
        EXPECT_EQ(table(again.scores).values, table(y.scores).values);
        EXPECT_EQ(table(again.weights).values, table(y.weights).values);
        EXPECT_EQ(table(again.lse).values, table(y.lse).values);
      }
  });
}

TEST(RoutingKernels, EveryRowChoosesDifferentExpertsWhateverTheLogits) {
  on_each_machine([](Machine& machine) {
    const double infinity = std::numeric_limits<double>::infinity();
    const std::array<double, 5> special{-infinity, 0.0, -0.0, infinity, std::nan("")};
    for (double value : special) {
      const Tensor logits = machine.empty({1, 21}, machine.sums());
      machine.backend().fill(logits, value);
      const Routed y = route(machine, logits, 6, {});
      EXPECT_EQ(table(y.chosen).values, (Row{0, 1, 2, 3, 4, 5})) << value;
    }
    const Tensor zeros_of_both_signs = machine.empty({1, 4}, machine.sums());
    for (int e = 0; e < 4; ++e) put(zeros_of_both_signs, 0, e, e % 2 == 0 ? -0.0 : 0.0);
    EXPECT_EQ(table(route(machine, zeros_of_both_signs, 2, {}).chosen).values, (Row{0, 1}));
  });
}

TEST(RoutingKernels, RouteBackwardIsTheGradientOfEachOutput) {
  on_each_machine([](Machine& machine) {
    for (RouterKind kind : router_kinds)
      for (int absent = 0; absent < 8; ++absent) {
        const std::int64_t experts = 37, k = 5, n = 9;
        const Tensor logits = machine.random({n, experts}, machine.sums(), 1);
        const Routed y = route(machine, logits, k, {kind});
        const Tensor ds = absent & 1 ? Tensor() : machine.random({n, experts}, machine.sums(), 2);
        const Tensor dw = absent & 2 ? Tensor() : machine.random({n, k}, machine.sums(), 3);
        const Tensor dl = absent & 4 ? Tensor() : machine.random({n}, machine.sums(), 4);
        const Tensor dx = machine.empty({n, experts}, machine.sums());
        machine.backend().route_backward(dx, ds, dw, dl, y.scores, y.weights, y.chosen, {}, {kind});
        const Table s = table(y.scores), w = table(y.weights), chosen = table(y.chosen);
        Table want = zeros(n, experts);
        // Row by row the Jacobians of softmax: d s_a / d x_b = s_a ([a = b] - s_b).
        for (std::int64_t r = 0; r < n; ++r)
          for (std::int64_t b = 0; b < experts; ++b) {
            for (std::int64_t a = 0; ds && a < experts; ++a)
              want(r, b) += table(ds)(r, a) * s(r, a) * ((a == b) - s(r, b));
            if (dl) want(r, b) += table(dl)[r] * s(r, b);
            double weight_of_b = 0;
            for (std::int64_t j = 0; j < k; ++j)
              if (chosen(r, j) == double(b)) weight_of_b = w(r, j);
            const double share = kind == RouterKind::softmax_top_k ? s(r, b) : weight_of_b;
            for (std::int64_t j = 0; dw && j < k; ++j)
              want(r, b) += table(dw)(r, j) * w(r, j) * ((chosen(r, j) == double(b)) - share);
          }
        expect_close(dx, want);
      }
  });
}

TEST(RoutingKernels, PlanSortsChoicesByExpertAndKeepsTheirOrder) {
  Machine machine(DType::f32, 2);
  for (std::int64_t n : {0, 1, 777}) {
    const std::int64_t k = 3, experts = 11;
    const Tensor chosen = machine.integers({n, k}, experts - 1, 1);  // the last expert gets nothing
    const Tensor order = machine.empty({n * k}, DType::i32),
                 place = machine.empty({n * k}, DType::i32);
    const Tensor counts = machine.empty({experts}, DType::i64);
    machine.backend().plan(order, place, counts, chosen, 0);
    const Table choice = table(chosen);
    std::vector<double> want(std::size_t(n * k));
    std::iota(want.begin(), want.end(), 0);
    std::ranges::stable_sort(want, {}, [&](double i) { return choice[std::int64_t(i)]; });
    EXPECT_EQ(table(order).values, want);
    for (std::int64_t i = 0; i < n * k; ++i)
      EXPECT_EQ(table(place)[std::int64_t(want[std::size_t(i)])], double(i));
    for (std::int64_t e = 0; e < experts; ++e)
      EXPECT_EQ(table(counts)[e], double(std::ranges::count(choice.values, double(e))));
    EXPECT_EQ(machine.backend().read_counts(counts, n * k), counts.to_vector<std::int64_t>());
  }
}

TEST(RoutingKernels, ChoicesAndScoresAreAddedUpBySegment) {
  on_each_machine([](Machine& machine) {
    for (bool segmented : {false, true}) {
      const std::int64_t n = 301, k = 3, experts = 45, segments = segmented ? 4 : 1;
      const Tensor chosen = machine.integers({n, k}, experts, 1),
                   mask = machine.random({n}, machine.sums(), 2);
      const Tensor segment = segmented ? machine.integers({n}, segments, 3) : Tensor();
      const Tensor x = machine.random({n, experts}, machine.type, 4),
                   dx = machine.empty({n, experts}, machine.type);
      const Tensor counts = machine.empty({segments, experts}, machine.sums()),
                   y = machine.empty({segments, experts}, machine.sums());
      const Tensor dy = machine.random({segments, experts}, machine.sums(), 5);
      machine.backend().count_choices(counts, chosen, mask, segment);
      machine.backend().segment_sum(y, x, mask, segment);
      machine.backend().segment_sum_backward(dx, dy, mask, segment);
      Table want_counts = zeros(segments, experts), want = want_counts, want_dx = zeros(n, experts);
      const Table choice = table(chosen), m = table(mask), v = table(x), d = table(dy);
      for (std::int64_t t = 0; t < n; ++t) {
        const std::int64_t s = segmented ? segment.data<std::int32_t>()[t] : 0;
        for (std::int64_t j = 0; j < k; ++j) want_counts(s, std::int64_t(choice(t, j))) += m[t];
        for (std::int64_t e = 0; e < experts; ++e) want(s, e) += m[t] * v(t, e);
        for (std::int64_t e = 0; e < experts; ++e) want_dx(t, e) = m[t] * d(s, e);
      }
      expect_close(counts, want_counts);
      expect_close(y, want, machine.type == DType::f64 ? 1e-12 : 2e-5);
      expect_close(dx, want_dx);
    }
  });
}

TEST(RoutingKernels, ScoresOfTheChosenAreAddedUpByExpert) {
  on_each_machine([](Machine& machine) {
    const std::int64_t n = 301, k = 3, experts = 45;
    const Tensor chosen = machine.integers({n, k}, experts, 1),
                 mask = machine.random({n}, machine.sums(), 2),
                 scores = machine.random({n, experts}, machine.sums(), 3);
    const Tensor sums = machine.empty({1, experts}, machine.sums());
    machine.backend().sum_of_chosen(sums, scores, chosen, mask);
    Table want = zeros(1, experts);
    const Table choice = table(chosen), m = table(mask), s = table(scores);
    for (std::int64_t t = 0; t < n; ++t)
      for (std::int64_t j = 0; j < k; ++j) {
        const auto e = std::int64_t(choice(t, j));
        want[e] += m[t] * s(t, e);
      }
    expect_close(sums, want, machine.type == DType::f64 ? 1e-12 : 2e-5);
  });
}

TEST(RoutingKernels, DroppedChoicesAreNotCounted) {
  const Machine machine(DType::f64);
  const Tensor chosen = Tensor::empty({3, 2}, DType::i32, machine.device),
               mask = Tensor::empty({3}, DType::f64, machine.device),
               counts = Tensor::empty({1, 2}, DType::f64, machine.device);
  std::ranges::copy(std::vector<std::int32_t>{0, 1, -1, 1, -1, -1}, chosen.data<std::int32_t>());
  std::ranges::copy(std::vector<double>{1, 1, 1}, mask.data<double>());
  machine.backend().count_choices(counts, chosen, mask, {});
  EXPECT_EQ(counts.to_vector<double>(), (std::vector<double>{1, 2}));
}

TEST(LossKernels, PartsOfTheLossAndTheirGradients) {
  on_each_machine([](Machine& machine) {
    const std::int64_t n = 51, columns = 531, first = 100;
    const Tensor logits = machine.random({n, columns}, machine.type, 1),
                 dlogits = machine.empty({n, columns}, machine.type);
    machine.backend().scale(logits, logits, 10);
    const Tensor target = machine.integers({n}, 800, 2);
    const Tensor top = machine.empty({n}, machine.sums()),
                 exp_sum = machine.empty({n}, machine.sums()),
                 picked = machine.empty({n}, machine.sums());
    const Tensor dsum = machine.random({n}, machine.sums(), 3),
                 dpicked = machine.random({n}, machine.sums(), 4);
    machine.backend().row_max(top, logits);
    machine.backend().loss_parts(exp_sum, picked, logits, top, target, first);
    machine.backend().loss_parts_backward(dlogits, dsum, dpicked, logits, top, target, first);
    const Table x = table(logits);
    Table want_top = zeros(1, n), want_sum = want_top, want_picked = want_top, want = x;
    for (std::int64_t r = 0; r < n; ++r) {
      want_top[r] = std::ranges::max(row_of(x, r));
      const std::int64_t column = target.data<std::int32_t>()[r] - first;
      for (std::int64_t c = 0; c < columns; ++c) {
        const double e = std::exp(x(r, c) - want_top[r]);
        want_sum[r] += e;
        want(r, c) = e * table(dsum)[r] + (c == column ? table(dpicked)[r] : 0);
        if (c == column) want_picked[r] = x(r, c);
      }
    }
    EXPECT_EQ(table(top).values, want_top.values);
    EXPECT_EQ(table(picked).values, want_picked.values);
    expect_close(exp_sum, want_sum);
    expect_close(dlogits, want);
    machine.backend().loss_parts_backward(logits, dsum, dpicked, logits, top, target, first);
    EXPECT_EQ(table(logits).values, table(dlogits).values);
  });
}

TEST(LossKernels, TheMaximumOfNegativeNumbersIsNotZero) {
  on_each_machine([](Machine& machine) {
    for (std::int64_t columns : {1, 3, 16, 33}) {
      const Tensor logits = machine.empty({2, columns}, machine.type),
                   top = machine.empty({2}, machine.sums());
      machine.backend().fill(logits, -4);
      machine.backend().row_max(top, logits);
      EXPECT_EQ(table(top).values, (Row{-4, -4}));
    }
  });
}

TEST(LossKernels, CrossEntropySkipsRowsWithoutWeight) {
  on_each_machine([](Machine& machine) {
    const std::int64_t n = 10001;
    const Tensor exp_sum = machine.random({n}, machine.sums(), 1),
                 picked = machine.random({n}, machine.sums(), 2);
    const Tensor top = machine.random({n}, machine.sums(), 3),
                 mask = machine.integers({n}, 3, 4, machine.sums());
    const Tensor dsum = machine.empty({n}, machine.sums()),
                 dpicked = machine.empty({n}, machine.sums());
    const Tensor loss = machine.empty({}, machine.sums()),
                 dloss = machine.random({}, machine.sums(), 5);
    double want = 0;
    Table want_sum = zeros(1, n), want_picked = want_sum;
    for (std::int64_t r = 0; r < n; ++r) {
      put(exp_sum, 0, r, table(mask.rows(r, r + 1))[0] == 0 ? 0 : 1 + double(r % 100));
      const double m = mask.rows(r, r + 1).item(), s = exp_sum.rows(r, r + 1).item();
      if (m == 0) continue;
      want += 0.01 * m * (std::log(s) + top.rows(r, r + 1).item() - picked.rows(r, r + 1).item());
      want_sum[r] = 0.01 * dloss.item() * m / s;
      want_picked[r] = -0.01 * dloss.item() * m;
    }
    machine.backend().cross_entropy(loss, exp_sum, picked, top, mask, 0.01);
    machine.backend().cross_entropy_backward(dsum, dpicked, dloss, exp_sum, mask, 0.01);
    EXPECT_NEAR(loss.item(), want, std::abs(want) * (machine.type == DType::f64 ? 1e-12 : 1e-6));
    expect_close(dsum, want_sum);
    expect_close(dpicked, want_picked);
  });
}

TEST(LossKernels, DotAndSquareSumAndTheirGradients) {
  on_each_machine([](Machine& machine) {
    for (const Shape& shape : {Shape{401, 173}, Shape{5003}}) {
      const Tensor a = machine.random(shape, machine.type, 1),
                   b = machine.random(shape, machine.type, 2),
                   da = machine.empty(shape, machine.type);
      const Tensor mask = machine.integers({shape[0]}, 3, 3, machine.sums());
      const Tensor y = machine.empty({}, machine.sums()),
                   squares = machine.empty({}, machine.sums()),
                   dy = machine.random({}, machine.sums(), 4);
      machine.backend().dot(y, a, b, 0.25);
      machine.backend().square_sum(squares, a, mask, 0.25);
      const Table u = table(a), v = table(b), m = table(mask);
      Table want_dot = u, want_square = u;
      double dot = 0, square = 0;
      for (std::int64_t i = 0; i < u.rows * u.columns; ++i) {
        const double weight = m[shape.dims() == 1 ? i : i / u.columns];
        dot += 0.25 * u[i] * v[i];
        square += 0.25 * weight * u[i] * u[i];
        want_dot[i] = 0.25 * dy.item() * v[i];
        want_square[i] = 2 * 0.25 * dy.item() * weight * u[i];
      }
      EXPECT_NEAR(y.item(), dot, (machine.type == DType::f64 ? 1e-12 : 1e-6) * (1 + std::abs(dot)));
      EXPECT_NEAR(squares.item(), square, (machine.type == DType::f64 ? 1e-12 : 1e-6) * square);
      machine.backend().dot_backward(da, dy, b, 0.25);
      expect_close(da, want_dot);
      machine.backend().square_sum_backward(da, dy, a, mask, 0.25);
      expect_close(da, want_square);
    }
  });
}

TEST(LossKernels, RowsAreDividedByTheirSumsAndRowsOfZerosStay) {
  on_each_machine([](Machine& machine) {
    const Tensor x = machine.integers({7, 45}, 9, 1, machine.type),
                 y = machine.empty({7, 45}, machine.type);
    machine.backend().fill(x.rows(2, 3), 0);
    machine.backend().normalise_rows(y, x);
    Table want = table(x);
    for (std::int64_t r = 0; r < 7; ++r) {
      const Row row = row_of(want, r);
      const double sum = std::accumulate(row.begin(), row.end(), 0.0);
      for (std::int64_t c = 0; c < 45; ++c) want(r, c) /= sum == 0 ? 1 : sum;
    }
    expect_close(y, want);
  });
}

TEST(LossKernels, TensorsWithoutRowsGiveZeros) {
  on_each_machine([](Machine& machine) {
    Backend& backend = machine.backend();
    const Tensor x = machine.empty({0, 64}, machine.type),
                 none = machine.empty({0}, machine.sums()), ids = machine.empty({0}, DType::i32);
    const Tensor y = machine.random({1, 64}, machine.sums(), 1),
                 one = machine.random({}, machine.sums(), 2);
    backend.row_max(none, x);
    backend.loss_parts(none, none, x, none, ids, 0);
    backend.loss_parts_backward(x, none, none, x, none, ids, 0);
    backend.cross_entropy(one, none, none, none, none, 1);
    EXPECT_EQ(one.item(), 0);
    backend.cross_entropy_backward(none, none, one, none, none, 1);
    backend.segment_sum(y, x, none, {});
    EXPECT_EQ(table(y).values, zeros(1, 64).values);
    backend.segment_sum_backward(x, y, none, ids);
    backend.dot(one, x, x, 1);
    EXPECT_EQ(one.item(), 0);
    backend.dot_backward(x, one, x, 1);
    backend.normalise_rows(x, x);
    backend.square_sum(one, x, none, 1);
    EXPECT_EQ(one.item(), 0);
    backend.square_sum_backward(x, one, x, none, 1);
    route(machine, machine.empty({0, 64}, machine.sums()), 4, {});
  });
}

TEST(LossKernels, TheyAreTheSameForAnyNumberOfWorkers) {
  expect_same_for_any_workers([](Machine& machine) {
    Backend& backend = machine.backend();
    const std::int64_t n = 40001;
    const Tensor x = machine.random({n, 5}, machine.type, 1),
                 mask = machine.random({n}, machine.sums(), 2);
    const Tensor squares = machine.empty({}, machine.sums()),
                 loss = machine.empty({}, machine.sums());
    const Tensor top = machine.empty({n}, machine.sums()),
                 exp_sum = machine.empty({n}, machine.sums());
    const Tensor picked = machine.empty({n}, machine.sums());
    backend.square_sum(squares, x, mask, 1);
    backend.row_max(top, x);
    backend.loss_parts(exp_sum, picked, x, top, machine.integers({n}, 5, 3), 0);
    backend.cross_entropy(loss, exp_sum, picked, top, mask, 1);
    return std::vector<Tensor>{squares, loss, exp_sum, picked};
  });
}

}  // namespace
}  // namespace pf::test
