// Attention and its gradients against a dense masked softmax in f64.
#include "core/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/device.h"
#include "core/workers.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Values = std::vector<double>;
using Areas = std::vector<Area>;
using Kind = Area::Kind;

constexpr DType all_types[] = {DType::f64, DType::f32, DType::bf16};

struct Sizes {
  std::int64_t queries = 0, keys = 0, heads = 4, kv_heads = 2, dim = 32;
  AttentionShape shape() const { return {heads, kv_heads, dim, 1.5 / std::sqrt(double(dim))}; }
};

// Row i and column j count from the area's top-left corner. Causal: not after the diagonal that
// ends in the bottom-right corner. Inverse-causal: not before the one that starts in the top-left
// corner.
bool sees(const Area& area, std::int64_t query, std::int64_t key) {
  if (query < area.q_begin || query >= area.q_end) return false;
  if (key < area.k_begin || key >= area.k_end) return false;
  const std::int64_t i = query - area.q_begin, j = key - area.k_begin;
  const std::int64_t below = area.q_end - query, right = area.k_end - key;
  if ((area.kind == Kind::causal || area.kind == Kind::both) && right < below) return false;
  return (area.kind != Kind::inverse_causal && area.kind != Kind::both) || j >= i;
}

struct Results {
  Values y, lse, dq, dk, dv;
};

// Everything dense. q, dy [queries, heads * dim], k, v [keys, kv_heads * dim].
Results dense(const Values& q, const Values& k, const Values& v, const Values& dy,
              const Areas& areas, const Sizes& sizes) {
  const auto& [queries, keys, heads, kv_heads, dim] = sizes;
  const double scale = sizes.shape().scale;
  Results out{Values(q.size()), Values(std::size_t(queries * heads)), Values(q.size()),
              Values(k.size()), Values(k.size())};
  const auto dot = [n = dim](const double* a, const double* b) {
    double total = 0;
    for (std::int64_t c = 0; c < n; ++c) total += a[c] * b[c];
    return total;
  };
  const auto add = [n = dim](double* to, double factor, const double* from) {
    for (std::int64_t c = 0; c < n; ++c) to[c] += factor * from[c];
  };
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::int64_t kv_width = kv_heads * dim, kv_first = h / (heads / kv_heads) * dim;
      const std::size_t at = std::size_t(i * heads * dim + h * dim);
      const auto kv = [&](std::int64_t j) { return std::size_t(j * kv_width + kv_first); };
      std::vector<std::int64_t> seen;
      for (std::int64_t j = 0; j < keys; ++j)
        if (std::any_of(areas.begin(), areas.end(), [&](const Area& a) { return sees(a, i, j); }))
          seen.push_back(j);
      double sum = 0, delta = 0;
      for (const std::int64_t j : seen) sum += std::exp(scale * dot(&q[at], &k[kv(j)]));
      const double lse = std::log(sum);
      out.lse[std::size_t(i * heads + h)] = lse;
      for (const std::int64_t j : seen)
        add(&out.y[at], std::exp(scale * dot(&q[at], &k[kv(j)]) - lse), &v[kv(j)]);
      delta = dot(&dy[at], &out.y[at]);
      for (const std::int64_t j : seen) {
        const double p = std::exp(scale * dot(&q[at], &k[kv(j)]) - lse);
        const double dscore = scale * p * (dot(&dy[at], &v[kv(j)]) - delta);
        add(&out.dq[at], dscore, &k[kv(j)]);
        add(&out.dk[kv(j)], dscore, &q[at]);
        add(&out.dv[kv(j)], p, &dy[at]);
      }
    }
  return out;
}

struct Rig {
  explicit Rig(DType of, int threads = 2, Isa isa = usable_isas().back())
      : type(of), device(make_cpu_backend(1)), workers(threads), attention(workers, isa) {}

  // Not a number wherever it is read before it is written.
  Tensor soiled(const Shape& shape, DType of) {
    const Tensor x = Tensor::empty(shape, of, device);
    std::memset(x.raw(), 0xff, std::size_t(shape.size()) * size_of(of));
    return x;
  }
  Tensor work_of(std::size_t bytes) { return soiled({std::int64_t(bytes)}, DType::u8); }

  // Forward and backward, with q, k, v and their gradients as columns of one tensor where they have
  // as many rows.
  Results run(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy,
              const Areas& areas, const Sizes& sizes) {
    const AttentionShape shape = sizes.shape();
    const Tensor y = soiled(q.shape(), type);
    const Tensor lse = soiled({sizes.queries, sizes.heads}, accumulation(type));
    attention.attention(y, lse, q, k, v, areas, shape,
                        work_of(attention.attention_workspace(q, k, areas, shape)));
    const std::int64_t wide = q.columns(), narrow = k.columns();
    const Tensor fused = soiled({std::max(sizes.queries, sizes.keys), wide + 2 * narrow}, type);
    const Tensor dq = fused.columns(0, wide).rows(0, sizes.queries);
    const Tensor dk = fused.columns(wide, wide + narrow).rows(0, sizes.keys);
    const Tensor dv = fused.columns(wide + narrow, wide + 2 * narrow).rows(0, sizes.keys);
    attention.attention_backward(
        dq, dk, dv, dy, y, lse, q, k, v, areas, shape,
        work_of(attention.attention_backward_workspace(q, k, areas, shape)));
    return {elements(y), elements(lse), elements(dq), elements(dk), elements(dv)};
  }

  struct Operands {
    Tensor q, k, v, dy;
  };
  Operands operands(const Sizes& sizes, std::uint64_t seed) {
    const std::int64_t wide = sizes.heads * sizes.dim, narrow = sizes.kv_heads * sizes.dim;
    const std::int64_t rows = std::max(sizes.queries, sizes.keys);
    const Tensor fused = random({rows, wide + 2 * narrow}, seed);
    return {fused.columns(0, wide).rows(0, sizes.queries),
            fused.columns(wide, wide + narrow).rows(0, sizes.keys),
            fused.columns(wide + narrow, wide + 2 * narrow).rows(0, sizes.keys),
            random({sizes.queries, wide}, seed + 1)};
  }
  // The same numbers in every type.
  Tensor random(const Shape& shape, std::uint64_t seed) {
    const Tensor x = Tensor::empty(shape, type, device);
    backend(x).copy(x, random_tensor(shape, DType::bf16, device, seed));
    return x;
  }

  DType type;
  Device device;
  Workers workers;
  AttentionKernels attention;
};

// bf16: y and gradients are rounded (2^-9), and so are probabilities and their gradients before
// they are multiplied.
double tolerance(DType type) {
  return type == DType::f64 ? 1e-13 : type == DType::f32 ? 3e-6 : 0x1p-7;
}

// Against the largest of the wanted values; where all are tiny, since they cancel out, against what
// they are sums of.
void expect_near(const char* what, const Values& found, const Values& wanted, double relative) {
  ASSERT_EQ(found.size(), wanted.size());
  double largest = 0.3;
  for (const double value : wanted)
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (std::isinf(wanted[i])) {
      ASSERT_EQ(found[i], wanted[i]) << what << ' ' << i;
    } else {
      ASSERT_LE(std::abs(found[i] - wanted[i]), relative * largest)
          << what << ' ' << i << " is " << found[i] << ", wanted " << wanted[i];
    }
  }
}

constexpr std::uint64_t any_seed = 20;

Results dense(const Areas& areas, const Sizes& sizes) {
  Rig rig(DType::f64);
  const auto [q, k, v, dy] = rig.operands(sizes, any_seed);
  return dense(elements(q), elements(k), elements(v), elements(dy), areas, sizes);
}

void expect_equal(Rig& rig, const Areas& areas, const Sizes& sizes, const Results& wanted) {
  const auto [q, k, v, dy] = rig.operands(sizes, any_seed);
  const Results found = rig.run(q, k, v, dy, areas, sizes);
  const double near = tolerance(rig.type);
  expect_near("y", found.y, wanted.y, near);
  expect_near("lse", found.lse, wanted.lse, std::min(near, 3e-6));
  expect_near("dq", found.dq, wanted.dq, near);
  expect_near("dk", found.dk, wanted.dk, near);
  expect_near("dv", found.dv, wanted.dv, near);
}

void expect_dense(const Areas& areas, const Sizes& sizes) {
  const Results wanted = dense(areas, sizes);
  for (const DType type : all_types)
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(std::string(name(type)) + ", threads " + std::to_string(threads));
      Rig rig(type, threads);
      expect_equal(rig, areas, sizes, wanted);
    }
}

Area area(std::int64_t q_begin, std::int64_t q_end, std::int64_t k_begin, std::int64_t k_end,
          Kind kind) {
  return {q_begin, q_end, k_begin, k_end, kind};
}

TEST(Attention, IsCausalAcrossBlocks) {
  expect_dense({area(0, 600, 0, 600, Kind::causal)}, {600, 600});
}

TEST(Attention, OfEachKindIsADenseMaskedSoftmax) {
  for (const Kind kind : {Kind::full, Kind::causal, Kind::inverse_causal, Kind::both})
    for (const auto& [queries, keys] :
         {std::pair<std::int64_t, std::int64_t>{70, 70}, {50, 300}, {300, 50}, {1, 40}, {40, 1}})
      expect_dense({area(0, queries, 0, keys, kind)}, {queries, keys});
}

TEST(Attention, KeepsDocumentsApart) {
  // Rows 34 to 39 and the last ones belong to no document.
  expect_dense({area(0, 33, 0, 33, Kind::causal), area(33, 34, 33, 34, Kind::causal),
                area(40, 297, 40, 297, Kind::causal), area(297, 400, 297, 400, Kind::causal)},
               {410, 410});
}

TEST(Attention, OfAWindowIsCausalAndInverseCausal) {
  constexpr std::int64_t rows = 300, window = 47;
  expect_dense({area(0, window - 1, 0, window - 1, Kind::causal),
                area(window - 1, rows, 0, rows, Kind::both)},
               {rows, rows});
}

TEST(Attention, OfBranchesSharesTheirPrefix) {
  expect_dense({area(0, 100, 0, 100, Kind::causal), area(100, 170, 0, 100, Kind::full),
                area(100, 170, 100, 170, Kind::causal), area(170, 205, 0, 100, Kind::full),
                area(170, 205, 170, 205, Kind::causal)},
               {205, 205});
}

TEST(Attention, TakesAreasWhoseKeysOverlap) {
  expect_dense({area(0, 60, 5, 200, Kind::full), area(60, 150, 100, 333, Kind::causal),
                area(10, 40, 333, 350, Kind::full), area(60, 61, 20, 30, Kind::full)},
               {150, 350});
}

TEST(Attention, TakesPiecesOfASequenceInAnyOrder) {
  // Two of four chunks, as a rank of a balanced causal split has them, with all keys.
  expect_dense({area(0, 80, 0, 80, Kind::causal), area(80, 160, 0, 320, Kind::causal)}, {160, 320});
}

TEST(Attention, TakesAnyHeads) {
  const Areas areas{area(0, 150, 0, 150, Kind::causal)};
  expect_dense(areas, {150, 150, 1, 1, 64});
  expect_dense(areas, {150, 150, 3, 1, 40});
  expect_dense(areas, {150, 150, 6, 3, 16});
  expect_dense(areas, {150, 150, 2, 2, 128});
}

TEST(Attention, OfNothingIsZero) {
  expect_dense({}, {40, 30});
  expect_dense({area(5, 5, 0, 10, Kind::full), area(7, 9, 3, 3, Kind::causal)}, {40, 30});
}

TEST(Attention, KeepsApartRowsThatSeeNothingFromTheirNeighbours) {
  // The first 30 rows lie above the diagonal.
  expect_dense({area(0, 50, 0, 20, Kind::causal)}, {50, 20});
}

TEST(Attention, StandsLargeScores) {
  for (const DType type : {DType::f64, DType::f32}) {
    Rig rig(type);
    const Sizes sizes{200, 200};
    auto [q, k, v, dy] = rig.operands(sizes, 30);
    backend(q).scale(q, q, 1000);
    const Results found = rig.run(q, k, v, dy, {area(0, 200, 0, 200, Kind::causal)}, sizes);
    for (const Values* values : {&found.y, &found.lse, &found.dq, &found.dk, &found.dv})
      for (const double value : *values) ASSERT_TRUE(std::isfinite(value));
    for (const double value : found.y) ASSERT_LE(std::abs(value), 1);
  }
}

TEST(Attention, IsAsExactWithLessOfTheProcessor) {
  const Sizes sizes{390, 390};
  const Areas areas{area(0, 300, 0, 300, Kind::causal), area(300, 390, 0, 390, Kind::both)};
  for (const DType type : all_types)
    for (const Isa isa : usable_isas()) {
      Rig rig(type, 2, isa);
      expect_equal(rig, areas, sizes, dense(areas, sizes));
    }
}

TEST(Attention, IsBitwiseEqualInEveryRun) {
  const Areas areas{area(0, 300, 0, 300, Kind::causal), area(300, 411, 300, 411, Kind::causal)};
  for (const DType type : all_types) {
    std::vector<Results> runs;
    for (int run = 0; run < 2; ++run) {
      Rig rig(type, 3);
      const auto [q, k, v, dy] = rig.operands({411, 411}, 40);
      runs.push_back(rig.run(q, k, v, dy, areas, {411, 411}));
    }
    EXPECT_EQ(runs[0].y, runs[1].y);
    EXPECT_EQ(runs[0].dq, runs[1].dq);
    EXPECT_EQ(runs[0].dk, runs[1].dk);
    EXPECT_EQ(runs[0].dv, runs[1].dv);
  }
}

// What one part of the keys gives after the other, merged; and the sums of their gradients.
Results in_parts(Rig& rig, const std::vector<Areas>& parts, const Sizes& sizes) {
  const auto [q, k, v, dy] = rig.operands(sizes, any_seed);
  const DType wide = accumulation(rig.type);
  const AttentionShape shape = sizes.shape();
  const Tensor y = rig.soiled(q.shape(), wide), part_y = rig.soiled(q.shape(), wide);
  const Tensor lse = rig.soiled({sizes.queries, sizes.heads}, wide), part_lse = Tensor::like(lse);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    rig.attention.attention(i == 0 ? y : part_y, i == 0 ? lse : part_lse, q, k, v, parts[i], shape,
                            rig.work_of(rig.attention.attention_workspace(q, k, parts[i], shape)));
    if (i > 0) backend(y).merge_attention(y, lse, part_y, part_lse);
  }
  const Tensor rounded = Tensor::like(q);
  backend(y).copy(rounded, y);
  std::vector<Tensor> sums, terms;
  for (const Tensor& x : {q, k, v}) {
    sums.push_back(Tensor::zeros(x.shape(), wide, rig.device));
    terms.push_back(rig.soiled(x.shape(), wide));
  }
  for (const Areas& areas : parts) {
    rig.attention.attention_backward(
        terms[0], terms[1], terms[2], dy, rounded, lse, q, k, v, areas, shape,
        rig.work_of(rig.attention.attention_backward_workspace(q, k, areas, shape)));
    for (std::size_t i = 0; i < 3; ++i) {
      const Tensor both[] = {sums[i], terms[i]};
      backend(y).add(sums[i], both);
    }
  }
  return {elements(y), elements(lse), elements(sums[0]), elements(sums[1]), elements(sums[2])};
}

TEST(Attention, PartsOfTheKeysMergeToTheWhole) {
  // Rows 0 to 9 see the first part alone, 90 to 99 the last alone, 100 to 104 nothing at all.
  const std::vector<Areas> parts{
      {area(0, 80, 0, 40, Kind::full)},
      {area(10, 90, 40, 100, Kind::causal)},
      {},
      {area(10, 50, 100, 120, Kind::full), area(70, 100, 100, 130, Kind::full)}};
  Areas all;
  for (const Areas& part : parts) all.insert(all.end(), part.begin(), part.end());
  const Sizes sizes{105, 130};
  const Results wanted = dense(all, sizes);
  for (const DType type : all_types) {
    SCOPED_TRACE(name(type));
    Rig rig(type);
    const Results found = in_parts(rig, parts, sizes);
    const double near = tolerance(type);
    expect_near("y", found.y, wanted.y, near);
    expect_near("lse", found.lse, wanted.lse, std::min(near, 3e-6));
    expect_near("dq", found.dq, wanted.dq, near);
    expect_near("dk", found.dk, wanted.dk, near);
    expect_near("dv", found.dv, wanted.dv, near);
  }
}

TEST(Attention, WritesTheAccumulationTypeWithoutRounding) {
  const Areas areas{area(0, 150, 0, 150, Kind::causal)};
  const Sizes sizes{150, 150};
  Rig rig(DType::bf16);
  const Results exact = in_parts(rig, {areas}, sizes);
  const auto [q, k, v, dy] = rig.operands(sizes, any_seed);
  const Results found = rig.run(q, k, v, dy, areas, sizes);
  const auto round = [](Values values) {
    for (double& value : values) value = double(float(Bf16(float(value))));
    return values;
  };
  EXPECT_NE(exact.y, found.y);
  EXPECT_EQ(round(exact.y), found.y);
  EXPECT_EQ(round(exact.dq), found.dq);
  EXPECT_EQ(round(exact.dk), found.dk);
  EXPECT_EQ(round(exact.dv), found.dv);
}

TEST(Attention, HasTheGradientsThatDifferencesGive) {
  const Sizes sizes{90, 90, 4, 2, 8};
  const Areas areas{area(0, 50, 0, 50, Kind::causal), area(50, 90, 30, 90, Kind::both)};
  Rig rig(DType::f64);
  const auto [q, k, v, dy] = rig.operands(sizes, 50);
  const Results at = rig.run(q, k, v, dy, areas, sizes);
  const Values weights = elements(dy);
  const auto loss = [&, &q = q, &k = k, &v = v, &dy = dy] {
    const Values y = rig.run(q, k, v, dy, areas, sizes).y;
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i) total += y[i] * weights[i];
    return total;
  };
  const auto expect_slope = [&](const Tensor& x, const Values& gradient) {
    for (std::int64_t i = 0; i < x.size(); i += 211) {
      double& element = x.data<double>()[i / x.columns() * x.pitch() + i % x.columns()];
      const double before = element, step = 1e-5;
      element = before + step;
      const double above = loss();
      element = before - step;
      const double below = loss();
      element = before;
      EXPECT_NEAR((above - below) / (2 * step), gradient[std::size_t(i)], 1e-8) << i;
    }
  };
  expect_slope(q, at.dq);
  expect_slope(k, at.dk);
  expect_slope(v, at.dv);
}

}  // namespace
}  // namespace pf
