// Low-rank changes of weights: their labels, their gradients, and that merging them changes
// nothing.
#include "core/adapter.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/ops/linear.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;
using Weight = std::unique_ptr<Parameter>;
using Counts = std::vector<std::int64_t>;

constexpr DType all_types[] = {DType::f64, DType::f32, DType::bf16};

struct AdapterTest : testing::Test {
  Device device{make_cpu_backend(2)};

  // With values in B, which starts as zeros.
  void adapt(Parameter& w, std::int64_t rank, double scale, DType type = DType::f64) {
    w.adapt(rank, scale);
    Adapter& adapter = *w.adapter();
    adapter.a.initialise(device, type, 5, 101);
    adapter.b.initialise(device, type, 5, 102);
    backend(w.value()).copy(adapter.b.value(),
                            random_tensor(adapter.b.shape(), accumulation(type), device, 31));
    adapter.b.changed();
  }
  Weight adapted(const std::string& name, const Shape& shape, std::int64_t rank,
                 const Label& label = {}, DType type = DType::f64) {
    Weight w = make_weight(name, shape, device, label, type);
    adapt(*w, rank, 1.5, type);
    return w;
  }
  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {},
              DType type = DType::f64) {
    return random_tensor(shape, type, device, seed, label);
  }
};

// --- Labels --------------------------------------------------------------------------------------

// Both products of the change, one after the other, go wherever W's does, and give what it gives.
TEST(AdapterLabels, MakeTheProductsOfTheChangeWhatTheWeightsIs) {
  constexpr Spread all[] = {invariant, replicated, partial, rows, columns, experts, others, layers};
  int legal = 0;
  for (const Spread of_x : all)
    for (const Spread of_w : all) {
      const Label x = dense(of_x, rows, rows), w = dense(of_w, replicated, replicated);
      Label y;
      try {
        y = linear("W", x, w);
      } catch (const Error&) {
        continue;
      }
      ++legal;
      EXPECT_EQ(linear("B", linear("A", x, label_of_a(w)), label_of_b(w)), y) << text(x) << text(w);
    }
  EXPECT_EQ(legal, 10);
}

TEST(AdapterLabels, OfExpertsAreCutByExperts) {
  const Label up = expert(rows, experts, replicated), down = expert(columns, experts, replicated);
  EXPECT_EQ(label_of_a(up), expert(replicated, experts, replicated));
  EXPECT_EQ(label_of_b(up), up);
  EXPECT_EQ(label_of_a(down), down);
  EXPECT_EQ(label_of_b(down), expert(replicated, experts, replicated));
}

TEST(AdapterLabels, GradientsAreSummedWhereTheOtherSideIsCut) {
  const Label kv = dense(rows, replicated, replicated).with({Axis::share}, replicated);
  EXPECT_EQ(summed_over(label_of_a(kv)), axes::tp * axes::cp * axes::dp);
  EXPECT_EQ(summed_over(label_of_b(kv)), Axes{Axis::share} * axes::cp * axes::dp);
  const Label out = dense(columns, replicated, replicated);
  EXPECT_EQ(summed_over(label_of_a(out)), axes::cp * axes::dp);
  EXPECT_EQ(summed_over(label_of_b(out)), axes::tp * axes::cp * axes::dp);
}

// --- Parameters ----------------------------------------------------------------------------------

TEST_F(AdapterTest, FollowsItsWeightsBlock) {
  const Block block{{2, 3, 5}, {1, 4, 6}};
  Parameter w("w", {8, 12, 30}, block, expert(rows, experts, replicated), Init::normal, 1,
              Role::router);
  w.adapt(2, 1);
  const Parameter &a = w.adapter()->a, &b = w.adapter()->b;
  EXPECT_FALSE(w.is_trainable());
  EXPECT_EQ(a.name(), "w.lora.a");
  EXPECT_EQ(b.name(), "w.lora.b");
  EXPECT_EQ(a.whole(), Shape({8, 2, 30}));
  EXPECT_EQ(b.whole(), Shape({8, 12, 2}));
  EXPECT_EQ(a.shape(), Shape({1, 2, 6}));
  EXPECT_EQ(b.shape(), Shape({1, 4, 2}));
  EXPECT_EQ(a.block().begin, (std::array<std::int64_t, 4>{2, 0, 5, 0}));
  EXPECT_EQ(b.block().begin, (std::array<std::int64_t, 4>{2, 3, 0, 0}));
  EXPECT_EQ(a.role(), Role::router);
  EXPECT_EQ(b.role(), Role::router);
}

TEST_F(AdapterTest, AtFirstProductsAreTheWeights) {
  for (const DType type : all_types) {
    const Weight w = make_weight("w", {40, 50}, device, {}, type);
    Pack pack("w", {w.get()});
    const Tensor x = make({70, 50}, 1, {}, type);
    const auto before = elements(linear(x, pack)[0]);
    w->adapt(4, 2);
    for (Parameter* p : {&w->adapter()->a, &w->adapter()->b}) p->initialise(device, type, 5, 7);
    EXPECT_EQ(elements(linear(x, pack)[0]), before) << name(type);
    double squares = 0;
    for (const double a : elements(w->adapter()->a.value())) squares += a * a;
    EXPECT_NEAR(squares / 200 * 50, 1, 0.5);  // 200 numbers of variance 1 / 50
  }
}

TEST_F(AdapterTest, MatricesThatProductsDoNotUseAreAnErrorThatNamesThem) {
  const Weight norm = make_weight("norm", {7}, device), w = make_weight("w", {3, 7}, device);
  Parameter table("table", {9, 7}, {{}, {9, 7}}, {}, Init::normal, 1, Role::embedding);
  expect_error([&] { norm->adapt(1, 1); }, {"norm", "[7]", "matrices"});
  expect_error([&] { table.adapt(1, 1); }, {"table", "[9, 7]", "products alone"});
  expect_error([&] { w->adapt(4, 1); }, {"w [3, 7]", "rank 4", "1 to 3"});
  expect_error([&] { w->merge(); }, {"w", "without an adapter"});
  w->adapt(3, 1);
  expect_error([&] { w->adapt(3, 1); }, {"w", "twice"});
  expect_error([&] { borrow(*w); }, {"w", "without a pack"});
  Pack pack("pack", {w.get()});
  expect_error([&] { linear(make({2, 7}, 1), pack); }, {"w", "initialise()"});
}

// --- Gradients -----------------------------------------------------------------------------------

// One part adapted, one frozen, one trained.
TEST_F(AdapterTest, HasTheGradientsOfFiniteDifferencesBesideOtherParts) {
  const Weight q = adapted("q", {6, 7}, 2), k = make_weight("k", {3, 7}, device),
               v = make_weight("v", {4, 7}, device), z = adapted("z", {5, 7}, 3);
  k->freeze();
  Pack pack("qkvz", {q.get(), k.get(), v.get(), z.get()});
  expect_gradients(
      [&](const Tensors& x) { return linear(x[0], pack); }, {make({11, 7}, 1)},
      {&q->adapter()->a, &q->adapter()->b, v.get(), &z->adapter()->a, &z->adapter()->b});
  EXPECT_FALSE(q->has_gradient());
  EXPECT_FALSE(k->has_gradient());
}

TEST_F(AdapterTest, OfExpertsHasTheGradientsOfFiniteDifferences) {
  const Weight gate = adapted("gate", {4, 5, 3}, 2), up = adapted("up", {4, 4, 3}, 3);
  Pack pack("gate_up", {gate.get(), up.get()});
  for (const Counts& counts : {Counts{1, 0, 6, 2}, Counts{0, 9, 0, 0}})
    expect_gradients(
        [&](const Tensors& x) {
          return grouped_linear({x[0], {}, counts}, pack);
        },
        {make({9, 3}, 1)},
        {&gate->adapter()->a, &gate->adapter()->b, &up->adapter()->a, &up->adapter()->b});
}

TEST_F(AdapterTest, GradientsAddUpAndNoRowsGiveZeros) {
  const Weight w = adapted("w", {5, 3}, 2);
  Pack pack("w", {w.get()});
  const auto gradients = [&](std::int64_t tokens) {
    return tape_gradients([&](const Tensors& x) { return linear(x[0], pack); },
                          {make({tokens, 3}, 1)}, {&w->adapter()->a, &w->adapter()->b});
  };
  EXPECT_EQ(gradients(0)[1], std::vector<double>(6, 0.0));
  EXPECT_EQ(gradients(0)[2], std::vector<double>(10, 0.0));
  const auto once = gradients(4);
  const Tensor x = make({4, 3}, 1), dy = coefficients(linear(x, pack)[0], 0);
  add_weight_gradients(x, dy, pack, {4});
  for (const std::size_t i : {1u, 2u}) {
    Parameter& p = i == 1 ? w->adapter()->a : w->adapter()->b;
    const auto twice = elements(p.gradient());
    for (std::size_t j = 0; j < twice.size(); ++j) EXPECT_NEAR(twice[j], 2 * once[i][j], 1e-14);
  }
}

TEST_F(AdapterTest, GradientsInF32AndBf16AreNearThoseInDoubles) {
  for (const DType type : {DType::f32, DType::bf16}) {
    std::vector<std::vector<double>> found[2];
    for (const int which : {0, 1}) {
      const DType of = which == 0 ? DType::f64 : type;
      const Weight w = adapted("w", {2, 70, 45}, 9, {}, of);
      Pack pack("w", {w.get()});
      const Tensor x = make({100, 45}, 1, {}, of), dy = make({100, 70}, 2, {}, of);
      add_weight_gradients(x, dy, pack, {37, 63});
      for (Parameter* p : {&w->adapter()->a, &w->adapter()->b})
        found[which].push_back(elements(p->gradient()));
    }
    const double close = type == DType::f32 ? 1e-6 : 2e-2;  // bf16 keeps 8 bits
    for (const std::size_t i : {0u, 1u})
      EXPECT_LE(distance(found[1][i], found[0][i]), close) << name(type) << ' ' << i;
  }
}

TEST_F(AdapterTest, WeightWorkNeedsNoMatrixAsLargeAsTheWeight) {
  constexpr std::int64_t wide = 1024, tokens = 4;
  const Weight w = adapted("w", {wide, wide}, 1, {}, DType::f32),
               still = make_weight("still", {wide, wide}, device, {}, DType::f32);
  still->freeze();
  Pack pack("w", {w.get(), still.get()});
  const Tensor x = make({tokens, wide}, 1, {}, DType::f32),
               dy = make({tokens, 2 * wide}, 2, {}, DType::f32);
  device.restart_peak();
  const std::size_t before = device.memory().live;
  add_weight_gradients(x, dy, pack, {tokens});
  EXPECT_LT(device.memory().peak - before, std::size_t(wide * wide));  // bytes: a quarter of one
}

// --- Merging -------------------------------------------------------------------------------------

TEST_F(AdapterTest, TheMergedValueIsTheWeightsAndTheChange) {
  const Weight w = adapted("w", {2, 5, 7}, 3);
  const auto value = elements(w->value()), a = elements(w->adapter()->a.value()),
             b = elements(w->adapter()->b.value());
  std::vector<double> wanted = value;
  for (std::size_t e = 0; e < 2; ++e)
    for (std::size_t o = 0; o < 5; ++o)
      for (std::size_t i = 0; i < 7; ++i)
        for (std::size_t r = 0; r < 3; ++r)
          wanted[(e * 5 + o) * 7 + i] += 1.5 * b[(e * 5 + o) * 3 + r] * a[(e * 3 + r) * 7 + i];
  EXPECT_LE(distance(elements(merged(*w)), wanted), 1e-14);
  EXPECT_EQ(elements(w->value()), value);
}

TEST_F(AdapterTest, MergingLeavesEveryProductItsBits) {
  for (const DType type : all_types)
    for (const bool is_grouped : {false, true}) {
      const Shape shape = is_grouped ? Shape{3, 40, 50} : Shape{40, 50};
      const Weight w = adapted("w", shape, 4, {}, type),
                   v = make_weight("v", shape, device, {}, type);
      Pack pack("wv", {w.get(), v.get()});
      const Counts counts = is_grouped ? Counts{30, 1, 39} : Counts{70};
      const Tensor x = make({70, 50}, 1, {}, type);
      const auto run = [&] {
        std::vector<std::vector<double>> out;
        for (const Tensor& y : is_grouped ? grouped_linear({x, {}, counts}, pack) : linear(x, pack))
          out.push_back(elements(y));
        return out;
      };
      const auto before = run();
      w->merge();
      EXPECT_EQ(w->adapter(), nullptr);
      EXPECT_EQ(run(), before) << name(type);
      EXPECT_NE(before[0], std::vector<double>(before[0].size(), 0.0));
    }
}

// However often the value changes before the pack is used again.
TEST_F(AdapterTest, APackNoticesAMergeAndWhatFollows) {
  for (int changes = 0; changes < 6; ++changes) {
    const Weight w = adapted("w", {40, 50}, 2, {}, DType::bf16);
    Pack pack("w", {w.get()}), fresh("w", {w.get()});
    const Tensor x = make({3, 50}, 1, {}, DType::bf16);
    linear(x, pack);
    w->merge();
    for (int i = 0; i < changes; ++i) {
      backend(w->value()).scale(w->value(), w->value(), 2);
      w->changed();
    }
    EXPECT_EQ(elements(linear(x, pack)[0]), elements(linear(x, fresh)[0])) << changes;
  }
}

TEST_F(AdapterTest, APackFollowsChangesOfAAndOfB) {
  for (const DType type : all_types) {
    const Weight w = adapted("w", {4, 5}, 2, {}, type);
    Pack pack("w", {w.get()});
    const Tensor x = make({3, 5}, 1, {}, type);
    auto before = elements(linear(x, pack)[0]);
    for (Parameter* p : {&w->adapter()->a, &w->adapter()->b}) {
      backend(p->value()).scale(p->value(), p->value(), 3);
      p->changed();
      const auto after = elements(linear(x, pack)[0]);
      EXPECT_NE(after, before) << name(type) << ' ' << p->name();
      before = after;
    }
  }
}

TEST_F(AdapterTest, CopiesOfAnAdaptedPackAreNotAnOptimizersToRebuild) {
  const Weight w = make_weight("w", {40, 50}, device, {}, DType::bf16);
  Pack pack("w", {w.get()});
  const Tensor x = make({3, 50}, 1, {}, DType::bf16);
  linear(x, pack);
  EXPECT_NE(pack.copies(), nullptr);
  adapt(*w, 4, 1, DType::bf16);
  linear(x, pack);
  EXPECT_TRUE(pack.is_trainable());
  EXPECT_EQ(pack.copies(), nullptr);
  w->merge();
  linear(x, pack);
  EXPECT_NE(pack.copies(), nullptr);
  EXPECT_FALSE(pack.is_trainable());
}

}  // namespace
}  // namespace pf
