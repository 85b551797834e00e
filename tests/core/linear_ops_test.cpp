// Products with weights.
#include "core/ops/linear.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "core/ops/elementwise.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;
using Weight = std::unique_ptr<Parameter>;

struct LinearOp : testing::Test {
  Device device{make_cpu_backend(2)};
  const Label whole = dense(replicated, replicated, replicated);

  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {},
              DType type = DType::f64) {
    return random_tensor(shape, type, device, seed, label);
  }
};

// sum over i of x[r, i] * w[c, i], in f64.
std::vector<double> product(const Tensor& x, const Tensor& w) {
  const auto a = elements(x), b = elements(w);
  const std::int64_t inputs = x.columns();
  std::vector<double> y;
  for (std::int64_t r = 0; r < x.rows(); ++r)
    for (std::int64_t c = 0; c < w.rows(); ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < inputs; ++i)
        sum += a[std::size_t(r * inputs + i)] * b[std::size_t(c * inputs + i)];
      y.push_back(sum);
    }
  return y;
}

TEST_F(LinearOp, LinearWithOnePartHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {5, 7}, device, whole);
  Pack pack("pack", {w.get()});
  expect_gradients([&](const Tensors& x) { return linear(x[0], pack); },
                   {make({11, 7}, 1, dense(rows, rows, rows))}, {w.get()});
}

TEST_F(LinearOp, LinearWithSeveralPartsHasTheGradientsOfFiniteDifferences) {
  const Weight q = make_weight("q", {6, 7}, device), k = make_weight("k", {3, 7}, device),
               v = make_weight("v", {1, 7}, device);
  Pack pack("qkv", {q.get(), k.get(), v.get()});
  expect_gradients([&](const Tensors& x) { return linear(x[0], pack); }, {make({5, 7}, 1)},
                   {q.get(), k.get(), v.get()});
}

TEST_F(LinearOp, LinearOfPartsCutDifferentlyHasTheGradientsOfFiniteDifferences) {
  const Label cut = dense(rows, replicated, replicated);
  const Weight q = make_weight("q", {6, 7}, device, cut),
               k = make_weight("k", {2, 7}, device, cut.with({Axis::share}, replicated));
  Pack pack("qk", {q.get(), k.get()});
  expect_gradients([&](const Tensors& x) { return linear(x[0], pack); },
                   {make({5, 7}, 1, dense(replicated, rows, rows))}, {q.get(), k.get()});
}

TEST_F(LinearOp, LinearOfCutColumnsIsPartialAndHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {5, 3}, device, dense(columns, replicated, replicated));
  Pack pack("down", {w.get()});
  const Tensor x = make({4, 3}, 1, dense(columns, rows, rows));
  EXPECT_EQ(linear(x, pack)[0].label()[Axis::kv], partial);
  expect_gradients([&](const Tensors& in) { return linear(in[0], pack); }, {x}, {w.get()});
}

TEST_F(LinearOp, LinearOfInvariantsHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {5, 3}, device);
  Pack pack("w", {w.get()});
  expect_gradients([&](const Tensors& x) { return linear(x[0], pack); }, {make({70, 3}, 1)},
                   {w.get()});
}

TEST_F(LinearOp, LinearOfSwigluHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {5, 7}, device, dense(columns, replicated, replicated));
  Pack pack("down", {w.get()});
  const Label hidden = dense(columns, rows, rows);
  const Tensor row = make({11}, 3, dense(replicated, rows, rows));
  expect_gradients(
      [&](const Tensors& x) { return Tensors{linear_of_swiglu(x[0], x[1], {}, pack)}; },
      {make({11, 7}, 1, hidden), make({11, 7}, 2, hidden)}, {w.get()});
  expect_gradients(
      [&](const Tensors& x) { return Tensors{linear_of_swiglu(x[0], x[1], x[2], pack)}; },
      {make({11, 7}, 1, hidden), make({11, 7}, 2, hidden), row}, {w.get()});
}

// What a gated MLP does, its activation kept or not: y, then the gradients of x and of all weights.
struct Gated {
  explicit Gated(Device& device)
      : gate(make_weight("gate", {9, 6}, device)),
        up(make_weight("up", {9, 6}, device)),
        down(make_weight("down", {6, 9}, device)) {}

  std::vector<std::vector<double>> run(const Tensor& in, bool keeps, bool defers = false) {
    Pack gate_up("gate_up", {gate.get(), up.get()}), down_pack("down", {down.get()});
    for (Parameter* w : {gate.get(), up.get(), down.get()}) w->clear_gradient();
    Tape tape;
    const Tensor x = tape.watch(in);
    Tensor y;
    {
      const Tape::Recording on(&tape);
      const Tensors both = linear(x, gate_up);
      y = keeps ? linear(swiglu(both[0], both[1]), down_pack)[0]
                : linear_of_swiglu(both[0], both[1], {}, down_pack);
    }
    live = in.device().memory().live;
    in.device().restart_peak();
    const Tensor ys[] = {y}, dys[] = {coefficients(y, 0)};
    std::vector<Tape::Work> later;
    tape.backward(ys, dys, defers ? &later : nullptr);
    for (const Tape::Work& work : later) work();
    peak = in.device().memory().peak;
    std::vector<std::vector<double>> out{elements(y), elements(tape.gradient(x))};
    for (Parameter* w : {gate.get(), up.get(), down.get()}) out.push_back(elements(w->gradient()));
    return out;
  }

  Weight gate, up, down;
  std::size_t live = 0, peak = 0;
};

TEST_F(LinearOp, LinearOfSwigluHasTheBitsOfLinearAndSwiglu) {
  Gated gated(device);
  const Tensor x = make({40, 6}, 1);
  const auto wanted = gated.run(x, true);
  EXPECT_EQ(gated.run(x, false), wanted);
  EXPECT_EQ(gated.run(x, false, true), wanted) << "weight gradients later";
}

TEST_F(LinearOp, LinearOfSwigluKeepsNoActivationAndNeedsNoRoomForItsOperandsGradients) {
  Gated gated(device);
  const Tensor x = make({4000, 6}, 1);
  gated.run(x, true);  // makes the weights' gradients
  const std::size_t of_activation = 4000 * 9 * sizeof(double);
  gated.run(x, true);
  const std::size_t live = gated.live;
  gated.run(x, false);
  EXPECT_EQ(gated.live, live - of_activation);
  Pack down("down", {gated.down.get()});
  const std::size_t work = device.backend().product_workspace(4000, down.packed(DType::f64));
  EXPECT_LT(gated.peak - gated.live, of_activation + 3 * 4000 * 6 * sizeof(double) + work);
}

TEST_F(LinearOp, LinearOfSwigluLeavesOperandsThatOthersHoldAsTheyAre) {
  Gated gated(device);
  Pack gate_up("gate_up", {gated.gate.get(), gated.up.get()}),
      down_pack("down", {gated.down.get()});
  Tape tape;
  const Tensor x = tape.watch(make({10, 6}, 1));
  Tensors both;
  Tensor y;
  {
    const Tape::Recording on(&tape);
    both = linear(x, gate_up);
    y = linear_of_swiglu(both[0], both[1], {}, down_pack);
  }
  const auto before = elements(both[0]);
  const Tensor ys[] = {y}, dys[] = {coefficients(y, 0)};
  tape.backward(ys, dys);
  EXPECT_EQ(elements(both[0]), before);
}

TEST_F(LinearOp, LinearOfSwigluWantsOnePart) {
  const Weight a = make_weight("a", {5, 7}, device), b = make_weight("b", {5, 7}, device);
  Pack pack("ab", {a.get(), b.get()});
  expect_error(
      [&] {
        linear_of_swiglu(make({3, 7}, 1), make({3, 7}, 2), {}, pack);
      },
      {"linear", "ab has 2 parts"});
}

TEST_F(LinearOp, TheResultsOfALinearAreColumnsOfOneMatrix) {
  const Weight a = make_weight("a", {6, 7}, device), b = make_weight("b", {3, 7}, device);
  Pack pack("ab", {a.get(), b.get()});
  const Tensors y = linear(make({5, 7}, 1), pack);
  const Tensor both = y[0].widened(9);
  EXPECT_TRUE(y[1].is_same_view(both.columns(6, 9)));
}

TEST_F(LinearOp, LinearInEachTypeEqualsTheProductInDoubles) {
  for (DType type : {DType::f64, DType::f32, DType::bf16}) {
    const Weight w = make_weight("w", {37, 45}, device, {}, type);
    Pack pack("w", {w.get()});
    const Tensor x = make({101, 45}, 1, {}, type);
    const Tensor y = linear(x, pack)[0];
    EXPECT_EQ(y.dtype(), type);
    // Of bf16 operands with 8 bits the sum of 45 products, rounded to 8 bits.
    const double close = type == DType::f64 ? 1e-14 : type == DType::f32 ? 1e-6 : 1e-2;
    EXPECT_LE(distance(elements(y), product(x, w->value())), close) << name(type);
  }
}

TEST_F(LinearOp, GradientsInF32AndBf16AreNearThoseInDoubles) {
  const Tensor x = make({43, 45}, 1);
  for (DType type : {DType::f32, DType::bf16}) {
    std::vector<std::vector<double>> found[2];
    for (int which : {0, 1}) {
      const DType of = which == 0 ? DType::f64 : type;
      const Weight a = make_weight("a", {37, 45}, device, {}, of),
                   b = make_weight("b", {20, 45}, device, {}, of);
      Pack pack("ab", {a.get(), b.get()});
      Tape tape;
      const Tensor in = tape.watch(random_tensor({43, 45}, of, device, 1));
      Tensors y, dy;
      {
        const Tape::Recording on(&tape);
        y = linear(in, pack);
      }
      for (const Tensor& part : y)
        dy.push_back(random_tensor(part.shape(), of, device, 3, gradient_of(part.label())));
      tape.backward(y, dy);
      for (const Tensor& d : {tape.gradient(in), a->gradient(), b->gradient()})
        found[which].push_back(elements(d));
    }
    const double close = type == DType::f32 ? 1e-6 : 2e-2;  // bf16 keeps 8 bits
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_LE(distance(found[1][i], found[0][i]), close) << name(type) << ' ' << i;
  }
}

// Ranks are threads of one process. A BLAS that is not safe for them is wrong once in thousands of
// products, so this finds it in most runs, not in all.
TEST_F(LinearOp, ProductsOfSeveralRanksAtOnceAreRight) {
  std::vector<std::thread> ranks;
  std::atomic<int> wrong{0};
  for (std::uint64_t rank = 0; rank < 4; ++rank)
    ranks.emplace_back([rank, &wrong] {
      Device own(make_cpu_backend(1));
      const Weight w = make_weight("w", {16, 16}, own);
      Pack pack("w", {w.get()});
      const Tensor x = random_tensor({16, 16}, DType::f64, own, rank);
      const auto wanted = product(x, w->value());
      for (int i = 0; i < 5000; ++i)
        wrong += distance(linear(x, pack)[0].to_vector<double>(), wanted) > 1e-13;
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(LinearOp, LinearWithWrongOperandsIsAnErrorThatNamesThem) {
  const Weight w = make_weight("gate", {5, 7}, device, dense(rows, replicated, replicated));
  Pack pack("mlp.gate", {w.get()});
  expect_error([&] { linear(make({4, 6}, 1), pack); }, {"linear", "mlp.gate", "[4, 6]", "7"});
  expect_error([&] { linear(make({7}, 1), pack); }, {"linear", "mlp.gate", "[7]"});
  expect_error(
      [&] {
        linear(make({4, 7}, 1, {}, DType::f32), pack);
      },
      {"linear", "gate", "f32", "f64"});
  Tape tape;
  const Tape::Recording on(&tape);
  expect_error(
      [&] {
        linear(make({4, 7}, 1, dense(rows, rows, rows)), pack);
      },
      {"linear gate", "rows", "share", "all_gather()"});
}

TEST_F(LinearOp, GroupedLinearWithUnevenCountsHasTheGradientsOfFiniteDifferences) {
  const Weight gate = make_weight("gate", {4, 5, 3}, device),
               up = make_weight("up", {4, 2, 3}, device);
  Pack pack("gate_up", {gate.get(), up.get()});
  for (const std::vector<std::int64_t>& counts : std::vector<std::vector<std::int64_t>>{
           {1, 0, 6, 2}, {0, 0, 9, 0}, {3, 2, 4, 0}, {0, 9, 0, 0}})
    expect_gradients(
        [&](const Tensors& x) {
          return grouped_linear({x[0], {}, counts}, pack);
        },
        {make({9, 3}, 1)}, {gate.get(), up.get()});
}

TEST_F(LinearOp, GroupedLinearOverExpertAxesHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("down", {2, 5, 3}, device, expert(columns, experts, replicated));
  Pack pack("down", {w.get()});
  expect_gradients(
      [&](const Tensors& x) {
        return grouped_linear({x[0], {}, {4, 3}}, pack);
      },
      {make({7, 3}, 1, expert(columns, experts, rows))}, {w.get()});
}

TEST_F(LinearOp, GroupedLinearOfNoRowsAtAllGivesGradientsOfZeros) {
  const Weight w = make_weight("w", {2, 5, 3}, device);
  Pack pack("w", {w.get()});
  Tape tape;
  const Tensor x = tape.watch(make({0, 3}, 1));
  {
    const Tape::Recording on(&tape);
    EXPECT_EQ(grouped_linear({x, {}, {0, 0}}, pack)[0].shape(), Shape({0, 5}));
  }
  tape.backward();
  EXPECT_EQ(w->gradient().to_vector<double>(), std::vector<double>(30, 0.0));
  EXPECT_EQ(tape.gradient(x).shape(), Shape({0, 3}));
}

TEST_F(LinearOp, GroupedLinearUsesEachExpertsOwnWeight) {
  const Weight w = make_weight("w", {3, 5, 4}, device);
  Pack pack("w", {w.get()});
  const Tensor x = make({7, 4}, 1);
  const Tensor y = grouped_linear({x, {}, {2, 1, 4}}, pack)[0];
  const std::int64_t begins[] = {0, 2, 3, 7};
  for (std::int64_t e = 0; e < 3; ++e) {
    const Tensor of_expert = w->value().rows(e, e + 1).reshaped({5, 4});
    EXPECT_LE(distance(y.rows(begins[e], begins[e + 1]).to_vector<double>(),
                       product(x.rows(begins[e], begins[e + 1]), of_expert)),
              1e-14);
  }
}

TEST_F(LinearOp, GroupedLinearWithWrongCountsIsAnErrorThatNamesThem) {
  const Weight w = make_weight("up", {2, 5, 3}, device, expert(rows, experts, replicated));
  Pack pack("experts.up", {w.get()});
  const Tensor x = make({7, 3}, 1, expert(replicated, experts, rows));
  expect_error([&] { grouped_linear({x, {}, {4, 2}}, pack); }, {"grouped_linear", "7 rows"});
  expect_error(
      [&] {
        grouped_linear({x, {}, {4, 2, 1}}, pack);
      },
      {"grouped_linear", "3 counts", "experts.up", "2 experts"});
  Tape tape;
  const Tape::Recording on(&tape);
  const Tensor not_sent = make({7, 3}, 1, expert(replicated, rows, rows));
  expect_error(
      [&] {
        grouped_linear({not_sent, {}, {4, 3}}, pack);
      },
      {"grouped_linear up", "rows", "experts", "ep"});
  expect_error(
      [&] {
        grouped_linear({make({7, 3}, 1), {}, {4, 3}}, pack);
      },
      {"grouped_linear up", "cross()"});
}

TEST_F(LinearOp, ABiasHasTheGradientsOfFiniteDifferencesAsItsProductIsCut) {
  const Weight b = make_weight("b", {7}, device, whole);
  expect_gradients([&](const Tensors& x) { return Tensors{add_bias(x[0], *b)}; },
                   {make({5, 7}, 1, dense(rows, rows, rows))}, {b.get()});
  const Weight cut = make_weight("cut", {7}, device, dense(rows, replicated, replicated));
  expect_gradients([&](const Tensors& x) { return Tensors{add_bias(x[0], *cut)}; },
                   {make({5, 7}, 1, dense(columns, rows, rows))}, {cut.get()});
  expect_error(
      [&] {
        add_bias(make({5, 7}, 1, dense(partial, rows, rows)), *b);
      },
      {"add_bias b", "partial", "reduce_scatter()"});
  expect_error(
      [&] {
        add_bias(make({5, 7}, 1, dense(rows, rows, rows)), *cut);
      },
      {"add_bias cut", "cut by"});
  expect_error([&] { add_bias(make({5, 6}, 1), *b); }, {"add_bias", "[5, 6]", "b is"});
}

}  // namespace
}  // namespace pf
