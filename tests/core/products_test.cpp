// Products with weights and their gradients against plain loops in f64.
#include "core/cpu/products.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/backend.h"
#include "core/cpu/bf16_gemm.h"
#include "core/device.h"
#include "core/error.h"
#include "core/workers.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;
using Values = std::vector<double>;

constexpr DType all_types[] = {DType::f64, DType::f32, DType::bf16};

// Weights of some groups in parts that are stacked, and what computes with them.
struct Rig {
  Rig(DType type, std::int64_t groups, std::int64_t inputs, const Counts& parts, int threads = 2,
      Isa isa = usable_isas().back())
      : device(make_cpu_backend(1)), workers(threads), products(workers, isa) {
    w.groups = groups;
    w.inputs = inputs;
    w.type = type;
    for (const std::int64_t outputs : parts) {
      const Shape shape = groups == 1 ? Shape{outputs, inputs} : Shape{groups, outputs, inputs};
      w.outputs += outputs;
      w.parts.push_back(random_tensor(shape, accumulation(type), device, 90 + w.parts.size()));
    }
    const std::int64_t bytes = std::int64_t(products.packed_bytes(w));
    if (bytes == 0) return;
    w.forward = soiled({bytes}, DType::u8);
    w.backward = soiled({bytes}, DType::u8);
    products.pack(w, work_of(products.pack_workspace(w)));
  }

  // Not a number wherever it is read before it is written.
  Tensor soiled(const Shape& shape, DType type) {
    const Tensor x = Tensor::empty(shape, type, device);
    if (x.size() > 0) std::memset(x.raw(), 0xff, std::size_t(shape.size()) * size_of(type));
    return x;
  }
  Tensor work_of(std::size_t bytes) { return soiled({std::int64_t(bytes)}, DType::u8); }

  // All groups' weights [groups, outputs, inputs] as the products see them.
  Values weights() {
    Values all(std::size_t(w.groups * w.outputs * w.inputs));
    std::int64_t first = 0;
    for (const Tensor& part : w.parts) {
      const Values values = elements(part);
      const std::int64_t outputs = part.extent(-2), size = outputs * w.inputs;
      for (std::int64_t g = 0; g < w.groups; ++g)
        for (std::int64_t i = 0; i < size; ++i) {
          const double value = values[std::size_t(g * size + i)];
          all[std::size_t((g * w.outputs + first) * w.inputs + i)] =
              w.type == DType::bf16 ? double(Bf16(float(value))) : value;
        }
      first += outputs;
    }
    return all;
  }

  Tensor product(const Tensor& x, const Counts& counts, DType type) {
    const Tensor y = soiled({x.rows(), w.outputs}, type);
    products.product(y, x, w, counts, work_of(products.product_workspace(x.rows(), w)));
    return y;
  }
  Tensor input_gradient(const Tensor& dy, const Counts& counts) {
    const Tensor dx = soiled({dy.rows(), w.inputs}, w.type);
    products.product_input_gradient(dx, dy, w, counts,
                                    work_of(products.product_workspace(dy.rows(), w)));
    return dx;
  }
  // One for each part; added to ones, or overwriting what is not a number.
  std::vector<Tensor> weight_gradients(const Tensor& dy, const Tensor& x, const Counts& counts,
                                       bool adds) {
    std::vector<GradientTarget> targets;
    std::vector<Tensor> dws;
    for (const Tensor& part : w.parts) {
      dws.push_back(soiled(part.shape(), part.dtype()));
      if (adds) backend(part).fill(dws.back(), 1);
      targets.push_back({dws.back(), adds});
    }
    products.product_weight_gradient(targets, dy, x, w, counts,
                                     work_of(products.product_workspace(x.rows(), w)));
    return dws;
  }

  Device device;
  Workers workers;
  Products products;
  Packed w;
};

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t(0));
}

// f(group, row)
template <class F>
void each_row(const Counts& counts, F f) {
  std::int64_t row = 0;
  for (std::size_t g = 0; g < counts.size(); ++g)
    for (std::int64_t i = 0; i < counts[g]; ++i) f(std::int64_t(g), row++);
}

// y = x w', or dx = dy w.
Values plain_product(const Values& x, const Packed& w, const Values& weights, const Counts& counts,
                     bool is_backward) {
  const std::int64_t from = is_backward ? w.outputs : w.inputs;
  const std::int64_t to = is_backward ? w.inputs : w.outputs;
  Values y(std::size_t(sum(counts) * to));
  each_row(counts, [&](std::int64_t g, std::int64_t r) {
    for (std::int64_t j = 0; j < to; ++j)
      for (std::int64_t i = 0; i < from; ++i)
        y[std::size_t(r * to + j)] +=
            x[std::size_t(r * from + i)] *
            weights[std::size_t(g * w.outputs * w.inputs +
                                (is_backward ? i * w.inputs + j : j * w.inputs + i))];
  });
  return y;
}

// Of one part, whose first row is `first` of the stacked.
Values plain_gradient(const Values& dy, const Values& x, const Packed& w, std::int64_t first,
                      std::int64_t outputs, const Counts& counts, double start) {
  Values dw(std::size_t(w.groups * outputs * w.inputs), start);
  each_row(counts, [&](std::int64_t g, std::int64_t r) {
    for (std::int64_t o = 0; o < outputs; ++o)
      for (std::int64_t i = 0; i < w.inputs; ++i)
        dw[std::size_t((g * outputs + o) * w.inputs + i)] +=
            dy[std::size_t(r * w.outputs + first + o)] * x[std::size_t(r * w.inputs + i)];
  });
  return dw;
}

// Sums of `terms` products of numbers below 1, and then one rounding to `type`.
void expect_sums(const Tensor& found, const Values& wanted, std::int64_t terms) {
  const double sum_error = found.dtype() == DType::f64 ? 1e-15 : 1e-6;
  const double rounding = found.dtype() == DType::bf16 ? 0x1p-8 : 0;
  const Values values = elements(found);
  ASSERT_EQ(values.size(), wanted.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_LE(std::abs(values[i] - wanted[i]),
              rounding * std::abs(wanted[i]) + sum_error * double(terms + 1))
        << "element " << i << " is " << values[i] << ", wanted " << wanted[i];
}

void expect_right(Rig& rig, const Tensor& x, const Tensor& dy, const Counts& counts, bool adds) {
  const Values weights = rig.weights(), xs = elements(x), dys = elements(dy);
  expect_sums(rig.product(x, counts, rig.w.type), plain_product(xs, rig.w, weights, counts, false),
              rig.w.inputs);
  expect_sums(rig.input_gradient(dy, counts), plain_product(dys, rig.w, weights, counts, true),
              rig.w.outputs);
  const std::vector<Tensor> dws = rig.weight_gradients(dy, x, counts, adds);
  std::int64_t first = 0;
  for (const Tensor& dw : dws) {
    const std::int64_t outputs = dw.extent(-2);
    expect_sums(dw, plain_gradient(dys, xs, rig.w, first, outputs, counts, adds ? 1 : 0), x.rows());
    first += outputs;
  }
}

void expect_right(Rig& rig, const Counts& counts, bool adds = false) {
  const Tensor x = random_tensor({sum(counts), rig.w.inputs}, rig.w.type, rig.device, 1);
  const Tensor dy = random_tensor({sum(counts), rig.w.outputs}, rig.w.type, rig.device, 2);
  expect_right(rig, x, dy, counts, adds);
}

TEST(Products, EqualPlainSumsForGroupsOfAnySize) {
  for (const DType type : all_types)
    for (const int threads : {1, 2, 3}) {
      Rig rig(type, 6, 64, {96, 32}, threads);
      expect_right(rig, {0, 1, 257, 31, 0, 33});
    }
}

TEST(Products, TakeExtentsThatNoBlockDivides) {
  for (const DType type : all_types)
    for (const Counts& parts : {Counts{1}, Counts{33, 5, 17}, Counts{100}}) {
      Rig rig(type, 2, 45, parts);
      expect_right(rig, {37, 70});
    }
}

TEST(Products, AddToWeightGradientsWhenAsked) {
  for (const DType type : all_types) {
    Rig rig(type, 3, 40, {48, 24});
    expect_right(rig, {5, 0, 90}, true);
  }
}

TEST(Products, OfFewRowsAreSharedOutByColumns) {
  for (const DType type : all_types) {
    Rig rig(type, 1, 64, {130, 65}, 3);
    expect_right(rig, {3});
  }
}

TEST(Products, WeightGradientsOfFewOutputsAreSharedOutByInputs) {
  for (const DType type : all_types)
    for (const std::int64_t rows : {0, 3, 700}) {
      Rig rig(type, 1, 75, {5, 9}, 4);
      expect_right(rig, {rows}, rows == 3);
    }
}

TEST(Products, OfNoRowsSetTheWeightGradientToZero) {
  for (const DType type : all_types) {
    Rig rig(type, 2, 32, {32});
    expect_right(rig, {0, 0});
  }
}

TEST(Products, AddUpManyRowsChunkByChunk) {
  for (const DType type : all_types) {
    Rig rig(type, 2, 32, {64});
    expect_right(rig, {1100, 513});
  }
}

TEST(Products, ReadAndWriteViewsOfWiderTensors) {
  for (const DType type : all_types) {
    const Counts counts{40, 29};
    Rig rig(type, 2, 64, {32, 64});
    const Tensor wide = random_tensor({69, 200}, type, rig.device, 3);
    const Tensor x = wide.columns(7, 71), dy = wide.columns(80, 176);
    expect_right(rig, x, dy, counts, false);

    const Tensor whole = random_tensor({69, 300}, type, rig.device, 4);
    const Values before = elements(whole);
    rig.products.product(whole.columns(3, 99), x, rig.w, counts,
                         rig.work_of(rig.products.product_workspace(69, rig.w)));
    rig.products.product_input_gradient(whole.columns(100, 164), dy, rig.w, counts,
                                        rig.work_of(rig.products.product_workspace(69, rig.w)));
    const Values after = elements(whole), y = elements(rig.product(x, counts, type)),
                 dx = elements(rig.input_gradient(dy, counts));
    for (std::int64_t r = 0; r < 69; ++r)
      for (std::int64_t c = 0; c < 300; ++c) {
        const double wanted = c >= 3 && c < 99      ? y[std::size_t(r * 96 + c - 3)]
                              : c >= 100 && c < 164 ? dx[std::size_t(r * 64 + c - 100)]
                                                    : before[std::size_t(r * 300 + c)];
        ASSERT_EQ(after[std::size_t(r * 300 + c)], wanted) << name(type) << ' ' << r << ' ' << c;
      }
  }
}

TEST(Products, OfBf16MayBeF32) {
  const Counts counts{50, 20};
  for (const Isa isa : usable_isas()) {
    Rig rig(DType::bf16, 2, 64, {40, 33}, 2, isa);
    const Tensor x = random_tensor({70, 64}, DType::bf16, rig.device, 5);
    expect_sums(rig.product(x, counts, DType::f32),
                plain_product(elements(x), rig.w, rig.weights(), counts, false), 64);
  }
}

TEST(Products, AreAsExactWithLessOfTheProcessor) {
  for (const DType type : all_types)
    for (const Isa isa : usable_isas()) {
      Rig rig(type, 3, 70, {96, 33}, 2, isa);
      expect_right(rig, {300, 1, 64});
      expect_right(rig, {0, 31, 33}, true);
    }
}

TEST(Products, AreBitwiseEqualInEveryRun) {
  const Counts counts{100, 613, 3};
  for (const DType type : all_types) {
    std::vector<Values> runs;
    for (int run = 0; run < 3; ++run) {
      Rig rig(type, 3, 64, {96, 40}, 3);
      const Tensor x = random_tensor({716, 64}, type, rig.device, 6);
      const Tensor dy = random_tensor({716, 136}, type, rig.device, 7);
      Values all = elements(rig.product(x, counts, type));
      for (const Tensor& result : rig.weight_gradients(dy, x, counts, false))
        for (const double value : elements(result)) all.push_back(value);
      for (const double value : elements(rig.input_gradient(dy, counts))) all.push_back(value);
      runs.push_back(all);
    }
    EXPECT_EQ(runs[0], runs[1]);
    EXPECT_EQ(runs[0], runs[2]);
  }
}

TEST(Products, PackAGroupAsTheyPackAll) {
  Rig rig(DType::bf16, 3, 45, {33, 20});
  const std::vector<std::uint8_t> forward = rig.w.forward.to_vector<std::uint8_t>();
  const std::vector<std::uint8_t> backward = rig.w.backward.to_vector<std::uint8_t>();
  const Values weights = rig.weights();
  std::vector<Bf16> plain;
  for (const double value : weights) plain.push_back(Bf16(float(value)));
  backend(rig.w.forward).fill(rig.w.forward, 255);
  backend(rig.w.backward).fill(rig.w.backward, 255);
  rig.workers.split(3, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t g = begin; g < end; ++g)
      rig.products.pack_group(rig.w, g, plain.data() + g * 53 * 45, worker);
  });
  EXPECT_EQ(rig.w.forward.to_vector<std::uint8_t>(), forward);
  EXPECT_EQ(rig.w.backward.to_vector<std::uint8_t>(), backward);
}

// Of levels that this CPU has.
std::vector<Bf16Gemm> gemms() {
  std::vector<Bf16Gemm> found;
  for (const Bf16Level level : {Bf16Level::amx, Bf16Level::avx512}) try {
      found.emplace_back(usable_isas().back(), level);
    } catch (const Error&) {
    }
  for (const Isa isa : usable_isas()) found.emplace_back(isa, Bf16Level::widened);
  return found;
}

TEST(Bf16Gemm, EveryLevelOfBf16MultipliesAlike) {
  Device device(make_cpu_backend(1));
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{64, 96, 128},
                                {33, 65, 31},
                                {1, 1, 1},
                                {70, 1000, 260},
                                {32, 16, 500}}) {
    const Tensor a = random_tensor({m, k}, DType::bf16, device, 8);
    const Tensor b = random_tensor({n, k}, DType::bf16, device, 9);
    Packed w;
    w.inputs = k;
    w.outputs = n;
    const Values wanted = plain_product(elements(a), w, elements(b), {m}, false);
    for (const Bf16Gemm& gemm : gemms()) {
      std::vector<Bf16> blocks(std::size_t(blocked_size(k, n)));
      std::vector<std::byte> scratch(gemm.scratch_bytes(k) + 64);
      void* aligned = scratch.data();
      std::size_t space = scratch.size();
      std::align(64, gemm.scratch_bytes(k), aligned, space);
      const Panels<Bf16> panels = gemm.panels(blocks.data(), k);
      gemm.pack(panels, {b.data<Bf16>(), k, true}, k, n);
      const Tensor c = Tensor::zeros({m, n}, DType::f32, device);
      for (const bool adds : {false, true})
        gemm.run(c.data<float>(), n, {a.data<Bf16>(), k}, panels, {m, n, k, adds}, aligned);
      Values twice = wanted;
      for (double& value : twice) value *= 2;
      expect_sums(c, twice, 2 * k);

      const Tensor half = Tensor::zeros({m, n}, DType::bf16, device);
      gemm.run(half.data<Bf16>(), n, {a.data<Bf16>(), k}, panels, {m, n, k}, aligned);
      gemm.run(c.data<float>(), n, {a.data<Bf16>(), k}, panels, {m, n, k}, aligned);
      for (std::int64_t i = 0; i < m * n; ++i)
        ASSERT_EQ(float(half.data<Bf16>()[i]), float(Bf16(c.data<float>()[i])))
            << "element " << i << " of level " << int(gemm.level());
    }
  }
}

TEST(Bf16Gemm, ABlockedMatrixIsTheSameFromRowsAndFromItsTranspose) {
  Device device(make_cpu_backend(1));
  for (const Bf16Gemm& gemm : gemms()) {
    const std::int64_t k = 77, n = 45;
    const Tensor b = random_tensor({k, n}, DType::bf16, device, 10);
    std::vector<Bf16> turned(std::size_t(n * in_blocks(k)));
    gemm.transpose(turned.data(), in_blocks(k), b.data<Bf16>(), n, k, n);
    for (std::int64_t c = 0; c < n; ++c)
      for (std::int64_t r = 0; r < in_blocks(k); ++r)
        ASSERT_EQ(turned[std::size_t(c * in_blocks(k) + r)].bits,
                  r < k ? b.data<Bf16>()[r * n + c].bits : 0);
    const std::size_t size = std::size_t(blocked_size(k, n));
    std::vector<Bf16> of_rows(size), of_columns(size);
    gemm.pack(gemm.panels(of_rows.data(), k), {b.data<Bf16>(), n}, k, n);
    gemm.pack(gemm.panels(of_columns.data(), k), {turned.data(), in_blocks(k), true}, k, n);
    EXPECT_EQ(std::memcmp(of_rows.data(), of_columns.data(), size * sizeof(Bf16)), 0);
  }
}

}  // namespace
}  // namespace pf
