// Elementwise kernels and those of weights of the CPU against plain loops.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "core/backend.h"
#include "tests/core/kernels_reference.h"

namespace pf::test {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

TEST(Kernels, FillSetsEveryElementOfAViewAndNoOther) {
  for (DType type : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
    Machine machine(DType::f32, 2);
    const Tensor wide = Tensor::zeros({301, 107}, type, machine.device);
    machine.backend().fill(wide.columns(3, 100), 5);
    const Table found = table(wide);
    for (std::int64_t r = 0; r < 301; ++r)
      for (std::int64_t c = 0; c < 107; ++c)
        ASSERT_EQ(found(r, c), c >= 3 && c < 100 ? 5 : 0) << name(type);
  }
}

TEST(Kernels, CopyCastsBetweenFloatingTypes) {
  on_each_machine([](Machine& machine) {
    for (DType from : {DType::f64, DType::f32, DType::bf16}) {
      const Tensor x = machine.random({67, 301}, from, 1),
                   y = machine.empty({67, 301}, machine.type);
      machine.backend().copy(y, x);
      expect_close(y, table(x));
    }
  });
}

TEST(Kernels, CastsToBf16RoundAsItsConstructorDoes) {
  for (Isa isa : usable_isas()) {
    Machine machine(DType::f32, 1, isa);
    const std::vector<float> special{0.0f,
                                     -0.0f,
                                     1.0f + 0x1p-8f,
                                     1.0f + 0x3p-8f,
                                     1e-45f,
                                     3.4e38f,
                                     -3.4e38f,
                                     65504,
                                     std::numeric_limits<float>::infinity(),
                                     -std::numeric_limits<float>::infinity(),
                                     std::nanf("1"),
                                     std::bit_cast<float>(0x7f800001u),
                                     std::bit_cast<float>(0xffffffffu)};
    const Tensor x = Tensor::empty({std::int64_t(special.size())}, DType::f32, machine.device);
    const Tensor y = Tensor::empty(x.shape(), DType::bf16, machine.device);
    std::memcpy(x.raw(), special.data(), special.size() * sizeof(float));
    machine.backend().copy(y, x);
    for (std::size_t i = 0; i < special.size(); ++i)
      EXPECT_EQ(y.data<Bf16>()[i].bits, Bf16(special[i]).bits) << special[i];
  }
}

TEST(Kernels, AddSumsInOrderAndMayWriteToAnOperand) {
  on_each_machine([](Machine& machine) {
    for (std::int64_t count : {1, 2, 5}) {
      std::vector<Tensor> xs;
      Table want = zeros(33, 5000 / 7);
      for (std::int64_t i = 0; i < count; ++i) {
        xs.push_back(machine.random({33, 5000 / 7}, machine.type, std::uint32_t(i)));
        const Table x = table(xs.back());
        for (std::size_t j = 0; j < x.values.size(); ++j) want.values[j] += x.values[j];
      }
      const Tensor y = machine.empty({33, 5000 / 7}, machine.type);
      machine.backend().add(y, xs);
      expect_close(y, want);
      machine.backend().add(xs.back(), xs);
      expect_close(xs.back(), want);
    }
  });
}

TEST(Kernels, ScaleMultiplies) {
  on_each_machine([](Machine& machine) {
    const Tensor x = machine.random({71, 333}, machine.type, 1),
                 y = machine.empty({71, 333}, machine.type);
    machine.backend().scale(y, x, -1.75);
    Table want = table(x);
    for (double& value : want.values) value *= -1.75;
    expect_close(y, want);
  });
}

TEST(Kernels, SwigluIsSiluOfTheGateTimesUpTimesTheRowsWeight) {
  on_each_machine([](Machine& machine) {
    for (bool weighted : {false, true}) {
      const Shape shape{37, 531};
      const Tensor gate = machine.random(shape, machine.type, 1),
                   up = machine.random(shape, machine.type, 2);
      const Tensor dy = machine.random(shape, machine.type, 3);
      const Tensor row = weighted ? machine.random({37}, machine.sums(), 4) : Tensor();
      const Tensor drow = weighted ? machine.empty({37}, machine.sums()) : Tensor();
      const Tensor y = machine.empty(shape, machine.type),
                   dgate = machine.empty(shape, machine.type);
      const Tensor dup = machine.empty(shape, machine.type);
      put(gate, 3, 5, 200);
      put(gate, 3, 6, -200);
      machine.backend().swiglu(y, gate, up, row);
      machine.backend().swiglu_backward(dgate, dup, drow, {}, dy, gate, up, row);
      const Table g = table(gate), u = table(up), d = table(dy);
      Table want = g, want_gate = g, want_up = g, want_row = zeros(1, 37);
      for (std::int64_t r = 0; r < 37; ++r)
        for (std::int64_t c = 0; c < 531; ++c) {
          const double weight = weighted ? table(row)[r] : 1, s = sigmoid(g(r, c));
          want(r, c) = g(r, c) * s * u(r, c) * weight;
          want_gate(r, c) = d(r, c) * weight * u(r, c) * s * (1 + g(r, c) * (1 - s));
          want_up(r, c) = d(r, c) * weight * g(r, c) * s;
          want_row[r] += d(r, c) * g(r, c) * s * u(r, c);
        }
      expect_close(y, want);
      expect_close(dgate, want_gate);
      expect_close(dup, want_up);
      if (weighted) expect_close(drow, want_row, machine.type == DType::f64 ? 1e-12 : 2e-4);
    }
  });
}

TEST(Kernels, SwigluBackwardInPlaceGivesTheSameBitsAndTheResultOnceMore) {
  on_each_machine([](Machine& machine) {
    const Shape shape{37, 531};
    const auto random = [&](std::uint64_t seed) {
      return machine.random(shape, machine.type, seed);
    };
    const Tensor gate = random(1), up = random(2), dy = random(3),
                 row = machine.random({37}, machine.sums(), 4);
    const Tensor y = machine.empty(shape, machine.type), dgate = machine.empty(shape, machine.type),
                 dup = machine.empty(shape, machine.type),
                 drow = machine.empty({37}, machine.sums());
    machine.backend().swiglu(y, gate, up, row);
    machine.backend().swiglu_backward(dgate, dup, drow, {}, dy, gate, up, row);
    const Tensor wanted[] = {y, dgate, dup};
    machine.backend().swiglu_backward(gate, up, drow, dy, dy, gate, up, row);
    const Tensor found[] = {dy, gate, up};
    for (int i = 0; i < 3; ++i) EXPECT_EQ(table(found[i]).values, table(wanted[i]).values) << i;
  });
}

TEST(Kernels, SigmoidsFarFromZeroAreFinite) {
  on_each_machine([](Machine& machine) {
    const Tensor gate = machine.empty({1, 40}, machine.type),
                 up = machine.empty({1, 40}, machine.type);
    const Tensor y = machine.empty({1, 40}, machine.type);
    for (std::int64_t c = 0; c < 40; ++c) put(gate, 0, c, double(c - 20) * 50);
    machine.backend().fill(up, 1);
    machine.backend().swiglu(y, gate, up, {});
    for (std::int64_t c = 0; c < 40; ++c)
      ASSERT_NEAR(table(y)[c], c > 20 ? double(c - 20) * 50 : 0, 4);
  });
}

TEST(Kernels, DropoutDrawsByTokenAndColumn) {
  on_each_machine([](Machine& machine) {
    const Random random{.seed = 0x123456789abcdef, .stream = 9, .step = 4};
    const Tensor x = machine.random({29, 77}, machine.type, 1),
                 y = machine.empty({29, 77}, machine.type);
    const Tensor token = machine.integers({29}, std::int64_t{1} << 40, 2, DType::i64);
    machine.backend().dropout(y, x, 0.3, random, token, 1000, 13);
    Table want = table(x);
    for (std::int64_t r = 0; r < 29; ++r)
      for (std::int64_t c = 0; c < 77; ++c) {
        const double draw =
            random.uniform(std::uint64_t(token.data<std::int64_t>()[r] * 1000 + 13 + c));
        want(r, c) = draw < 0.3 ? 0 : want(r, c) / 0.7;
      }
    expect_close(y, want);
  });
}

TEST(Kernels, NormalNumbersAreThoseOfTheirGlobalIndex) {
  on_each_machine([](Machine& machine) {
    const Random random{.seed = 5, .stream = 3, .step = 2};
    const Tensor y = machine.empty({5, 7, 33}, machine.sums());
    machine.backend().normal(y, random, 0.5, Shape{50, 20, 100},
                             std::array<std::int64_t, 3>{30, 9, 41});
    Table want = zeros(35, 33);
    for (std::int64_t a = 0; a < 5; ++a)
      for (std::int64_t b = 0; b < 7; ++b)
        for (std::int64_t c = 0; c < 33; ++c)
          want(a * 7 + b, c) =
              0.5 * random.normal(std::uint64_t(((a + 30) * 20 + b + 9) * 100 + c + 41));
    expect_close(y, want, machine.type == DType::f64 ? 1e-13 : 1e-6);
    const Tensor flat = machine.empty({50}, machine.sums()),
                 part = machine.empty({2, 5}, machine.sums());
    machine.backend().normal(flat, random, 1, Shape{50}, std::array<std::int64_t, 1>{0});
    machine.backend().normal(part, random, 1, Shape{5, 10}, std::array<std::int64_t, 2>{3, 4});
    for (std::int64_t r = 0; r < 2; ++r)
      for (std::int64_t c = 0; c < 5; ++c)
        EXPECT_EQ(table(part)(r, c), table(flat)[(r + 3) * 10 + c + 4]);
  });
}

TEST(Kernels, ActivationsAndTheirSlopes) {
  const auto phi = [](double x) { return (1 + std::erf(x / std::sqrt(2.0))) / 2; };
  const auto inner = [](double x) { return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); };
  const auto value = [&](ActivationKind kind, double x) {
    switch (kind) {
      case ActivationKind::gelu:
        return x * phi(x);
      case ActivationKind::gelu_tanh:
        return x / 2 * (1 + std::tanh(inner(x)));
      case ActivationKind::relu:
        return std::max(x, 0.0);
      case ActivationKind::sigmoid:
        return 1 / (1 + std::exp(-x));
    }
    return 0.0;
  };
  on_each_machine([&](Machine& machine) {
    for (const ActivationKind kind : {ActivationKind::gelu, ActivationKind::gelu_tanh,
                                      ActivationKind::relu, ActivationKind::sigmoid}) {
      const Tensor x = machine.random({37, 53}, machine.type, 1);
      machine.backend().scale(x, x, 4);
      put(x, 0, 0, 60);
      put(x, 0, 1, -60);
      const Tensor y = machine.empty(x.shape(), machine.type),
                   dx = machine.empty(x.shape(), machine.type),
                   dy = machine.random(x.shape(), machine.type, 2);
      machine.backend().activation(y, x, kind);
      machine.backend().activation_backward(dx, dy, x, kind);
      Table want = table(x), want_dx = table(dy);
      for (std::int64_t i = 0; i < x.size(); ++i) {
        const double at = want[i], h = 1e-5;
        const double slope = (value(kind, at + h) - value(kind, at - h)) / (2 * h);
        want_dx[i] *= at == 0 ? 0 : slope;
        want[i] = value(kind, at);
      }
      expect_close(y, want);
      expect_close(dx, want_dx, std::max(1e-8, tolerance(machine.type)));
    }
  });
}

TEST(Kernels, ReduceAddsAndCountsSquaresOfWhatItWrote) {
  on_each_machine([](Machine& machine) {
    const std::vector<Tensor> xs{machine.random({301, 301}, machine.type, 1),
                                 machine.random({301, 301}, machine.type, 2),
                                 machine.random({301, 301}, machine.type, 3)};
    const Tensor y = machine.empty({301, 301}, machine.type),
                 squares = Tensor::scalar(3, DType::f64, machine.device);
    machine.backend().reduce(y, xs, squares);
    Table want = table(xs[0]);
    double total = 3;
    const Table b = table(xs[1]), c = table(xs[2]);
    for (std::size_t i = 0; i < want.values.size(); ++i)
      want.values[i] += b.values[i] + c.values[i];
    for (double value : table(y).values) total += value * value;
    expect_close(y, want);
    EXPECT_NEAR(squares.item(), total, 1e-12 * total);
    const Tensor itself[] = {y};
    const Table before = table(y);
    machine.backend().reduce(y, itself, squares);
    EXPECT_EQ(table(y).values, before.values);
    EXPECT_NEAR(squares.item(), 2 * total - 3, 1e-12 * total);
  });
}

TEST(Kernels, AdamWIsTheFormula) {
  on_each_machine([](Machine& machine) {
    const Shape shape{5, 67, 131};
    const AdamWStep step{.lr = 0.01,
                         .beta1 = 0.8,
                         .beta2 = 0.9,
                         .eps = 1e-3,
                         .decay = 0.1,
                         .correction1 = 0.4,
                         .correction2 = 0.2,
                         .gradient_scale = 0.7};
    const AdamWTensor tensor{
        machine.random(shape, machine.sums(), 1), machine.random(shape, machine.sums(), 2),
        machine.random(shape, machine.sums(), 3), machine.random(shape, machine.sums(), 4)};
    const Table signed_moments = table(tensor.second);
    for (std::int64_t i = 0; i < tensor.second.size(); ++i)
      put(tensor.second.reshaped({tensor.second.size()}), 0, i, std::abs(signed_moments[i]));
    Table value = table(tensor.value), first = table(tensor.first), second = table(tensor.second);
    const Table gradient = table(tensor.gradient);
    machine.backend().adamw(std::array{tensor}, step, nullptr, {});
    for (std::size_t i = 0; i < value.values.size(); ++i) {
      const double g = gradient.values[i] * 0.7;
      double &w = value.values[i], &m = first.values[i], &v = second.values[i];
      m = 0.8 * m + (1 - 0.8) * g;
      v = 0.9 * v + (1 - 0.9) * g * g;
      w -= 0.01 * (m / 0.4 / (std::sqrt(v / 0.2) + 1e-3) + 0.1 * w);
    }
    expect_close(tensor.value, value);
    expect_close(tensor.first, first);
    expect_close(tensor.second, second);
  });
}

TEST(Kernels, AdamWRebuildsPacksAsPackDoes) {
  for (std::int64_t groups : {1, 5})
    for (int workers : {1, 3}) {
      Machine machine(DType::bf16, workers);
      Packed packed{.groups = groups,
                    .inputs = 64,
                    .outputs = 96,
                    .type = DType::bf16,
                    .parts = {},
                    .forward = {},
                    .backward = {}};
      std::vector<AdamWTensor> tensors;
      for (std::int64_t outputs : {64, 32}) {
        const Shape shape = groups == 1 ? Shape{outputs, 64} : Shape{groups, outputs, 64};
        AdamWTensor tensor;
        for (Tensor* x : {&tensor.value, &tensor.first, &tensor.second, &tensor.gradient})
          *x = Tensor::zeros(shape, DType::f32, machine.device);
        machine.backend().normal(tensor.value, {.seed = 1, .stream = std::uint32_t(outputs)}, 1,
                                 shape, std::array<std::int64_t, 3>{});
        machine.backend().normal(tensor.gradient, {.seed = 2, .stream = std::uint32_t(outputs)}, 1,
                                 shape, std::array<std::int64_t, 3>{});
        packed.parts.push_back(tensor.value);
        tensors.push_back(tensor);
      }
      Packed again = packed;
      for (Packed* p : {&packed, &again}) {
        const std::size_t bytes = machine.backend().packed_bytes(*p);
        p->forward = machine.bytes(bytes);
        p->backward = machine.bytes(bytes);
        for (const Tensor& x : {p->forward, p->backward}) machine.backend().fill(x, 0);
      }
      const Tensor work = machine.bytes(machine.backend().adamw_workspace(tensors, &packed));
      machine.backend().adamw(tensors, {.lr = 0.1}, &packed, work);
      machine.backend().pack(again, machine.bytes(machine.backend().pack_workspace(again)));
      EXPECT_EQ(table(packed.forward).values, table(again.forward).values);
      EXPECT_EQ(table(packed.backward).values, table(again.backward).values);
    }
}

TEST(Kernels, TensorsWithoutRowsAreLeftAlone) {
  on_each_machine([](Machine& machine) {
    Backend& backend = machine.backend();
    const Tensor x = machine.empty({0, 64}, machine.type),
                 none = machine.empty({0}, machine.sums());
    const Tensor ids = machine.empty({0}, DType::i32), tokens = machine.empty({0}, DType::i64);
    const Tensor w = machine.random({64}, machine.sums(), 1),
                 sums = machine.random({64}, machine.sums(), 2);
    const Tensor vocabulary = machine.random({9, 64}, machine.sums(), 3);
    const Tensor scale = machine.empty({0, 1}, machine.sums());
    backend.fill(x, 1);
    backend.copy(x, x);
    backend.add(x, std::array{x, x});
    backend.scale(x, x, 2);
    backend.swiglu(x, x, x, none);
    backend.swiglu_backward(x, x, none, x, x, x, x, none);
    backend.dropout(x, x, 0.5, {}, tokens, 64, 0);
    backend.embedding(x, ids, vocabulary, 0);
    backend.embedding_backward({vocabulary, false}, ids, x, 0);
    backend.rms_norm(x, scale, x, w, 1e-5);
    backend.rms_norm_backward({x}, {sums, false}, x, x, scale, w,
                              machine.bytes(backend.rms_norm_workspace(x, w)));
    backend.rope(x, x, ids, vocabulary, false);
    backend.take_rows(x, x, ids, 2);
    backend.sum_rows({x}, x, ids, 2);
    backend.reduce(x, std::array{x}, Tensor::zeros({}, DType::f64, machine.device));
    EXPECT_EQ(table(sums).values, zeros(1, 64).values);
    EXPECT_EQ(table(vocabulary).values, zeros(9, 64).values);
  });
}

TEST(Kernels, ElementsAndRowsAreTheSameForAnyNumberOfWorkers) {
  expect_same_for_any_workers([](Machine& machine) {
    Backend& backend = machine.backend();
    const Shape shape{517, 259};
    const Tensor a = machine.random(shape, machine.type, 1),
                 b = machine.random(shape, machine.type, 2);
    std::vector<Tensor> out;
    const auto next = [&](Shape of, DType type) {
      return out.emplace_back(machine.empty(of, type));
    };
    backend.add(next(shape, machine.type), std::array{a, b});
    backend.swiglu(next(shape, machine.type), a, b, {});
    const Tensor squares = Tensor::zeros({}, DType::f64, machine.device);
    backend.reduce(next(shape, machine.type), std::array{a, b}, squares);
    out.push_back(squares);
    backend.dot(next({}, machine.sums()), a, b, 2);
    const Tensor ids = machine.integers({517}, 13, 3);
    backend.embedding_backward({next({13, 259}, machine.sums()), false}, ids, a, 0);
    const Tensor mask = machine.random({517}, machine.sums(), 4);
    backend.segment_sum(next({13, 259}, machine.sums()), a, mask, ids);
    return out;
  });
}

}  // namespace
}  // namespace pf::test
