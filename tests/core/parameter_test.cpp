// Parameters, their gradients and their packs.
#include "core/parameter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "core/ops/linear.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Weight = std::unique_ptr<Parameter>;

struct ParameterTest : testing::Test {
  Device device{make_cpu_backend(2)};

  // The part of a whole [extents] that starts at `begin`.
  Weight part(const Shape& whole, const Block& block, DType type = DType::f32) {
    auto w = std::make_unique<Parameter>("w", whole, block, Label(), Init::normal, 0.02);
    w->initialise(device, type, 11, 4);
    return w;
  }
};

TEST_F(ParameterTest, ABlocksInitialValuesAreThoseOfTheWhole) {
  for (DType type : {DType::f64, DType::f32}) {
    const Shape extents{6, 10};
    const Weight whole = part(extents, {{}, extents}, type);
    const auto all = elements(whole->value());
    const Weight block = part(extents, {{2, 5}, {3, 4}}, type);
    const auto found = elements(block->value());
    for (std::size_t r = 0; r < 3; ++r)
      for (std::size_t c = 0; c < 4; ++c) EXPECT_EQ(found[r * 4 + c], all[(r + 2) * 10 + c + 5]);
  }
}

TEST_F(ParameterTest, ABlockOfExpertsHasTheWholesInitialValues) {
  const Shape extents{4, 3, 5};
  const Weight whole = part(extents, {{}, extents}), block = part(extents, {{1, 0, 2}, {2, 3, 3}});
  const auto all = elements(whole->value()), found = elements(block->value());
  for (std::size_t e = 0; e < 2; ++e)
    for (std::size_t r = 0; r < 3; ++r)
      for (std::size_t c = 0; c < 3; ++c)
        EXPECT_EQ(found[(e * 3 + r) * 3 + c], all[((e + 1) * 3 + r) * 5 + c + 2]);
}

TEST_F(ParameterTest, InitialValuesHaveTheirMomentsAndDependOnTheStream) {
  const Shape extents{100, 100};
  const Weight w = part(extents, {{}, extents});
  double sum = 0, squares = 0;
  for (const double value : elements(w->value())) {
    sum += value / 1e4;
    squares += value * value / 1e4;
  }
  EXPECT_NEAR(sum, 0, 5 * 0.02 / 100);
  EXPECT_NEAR(squares / (0.02 * 0.02), 1, 5 * std::sqrt(2.0) / 100);
  const auto before = elements(w->value());
  w->initialise(device, DType::f32, 11, 5);
  EXPECT_NE(elements(w->value()), before);
  w->initialise(device, DType::f32, 11, 4);
  EXPECT_EQ(elements(w->value()), before);
}

TEST_F(ParameterTest, OnesAndZerosAreWhatTheySay) {
  for (Init init : {Init::ones, Init::zeros}) {
    Parameter w("w", {7}, {{}, {7}}, {}, init);
    w.initialise(device, DType::f32, 1, 1);
    EXPECT_EQ(elements(w.value()), std::vector<double>(7, init == Init::ones ? 1.0 : 0.0));
  }
}

TEST_F(ParameterTest, ValuesAndGradientsAreOfTheAccumulationType) {
  for (DType type : {DType::f64, DType::f32, DType::bf16}) {
    const Weight w = make_weight("w", {3, 4}, device, {}, type);
    EXPECT_EQ(w->value().dtype(), accumulation(type));
    EXPECT_EQ(w->gradient().dtype(), accumulation(type));
  }
}

TEST_F(ParameterTest, AGradientHasTheDualLabel) {
  const Weight w = make_weight("w", {3, 4}, device, dense(rows, replicated, replicated));
  EXPECT_EQ(w->gradient().label(), dense(rows, partial, partial));
}

TEST_F(ParameterTest, AGradientThatNothingWroteIsZeros) {
  const Weight w = make_weight("w", {3}, device);
  EXPECT_FALSE(w->has_gradient());
  const GradientTarget target = w->gradient_target();
  backend(target.tensor).fill(target.tensor, 5);
  w->clear_gradient();
  EXPECT_EQ(elements(w->gradient()), std::vector<double>(3, 0.0));
}

TEST_F(ParameterTest, TheFirstWriteOverwritesAndLaterOnesAdd) {
  const Weight w = make_weight("w", {3}, device);
  for (int step = 0; step < 2; ++step) {
    EXPECT_FALSE(w->gradient_target().adds);
    EXPECT_TRUE(w->gradient_target().adds);
    EXPECT_TRUE(w->gradient_target().adds);
    w->clear_gradient();
  }
  w->gradient();
  EXPECT_TRUE(w->gradient_target().adds);
}

TEST_F(ParameterTest, GradientsOfTwoUsesAddUpAndAreForgottenWhenCleared) {
  const Weight w = make_weight("w", {3, 4}, device);
  Pack pack("w", {w.get()});
  const auto backward = [&](std::uint64_t seed) {
    Tape tape;
    const Tape::Recording on(&tape);
    const Tensor y = linear(random_tensor({5, 4}, DType::f64, device, seed), pack)[0];
    const Tensor ys[] = {y}, dys[] = {random_tensor({5, 3}, DType::f64, device, 3)};
    tape.backward(ys, dys);
    return elements(w->gradient());
  };
  const auto first = backward(1);
  w->clear_gradient();
  const auto second = backward(2);
  const auto both = backward(1);
  for (std::size_t i = 0; i < 12; ++i) EXPECT_NEAR(both[i], first[i] + second[i], 1e-14);
}

TEST_F(ParameterTest, AGradientIsWrittenWhereABucketPutsIt) {
  const Weight w = make_weight("w", {2, 3}, device);
  const Tensor bucket = Tensor::zeros({20}, DType::f64, device);
  w->place_gradient(bucket.rows(4, 10).reshaped({2, 3}));
  const GradientTarget target = w->gradient_target();
  EXPECT_FALSE(target.adds);
  backend(target.tensor).fill(target.tensor, 2);
  auto wanted = std::vector<double>(20, 0.0);
  for (std::size_t i = 4; i < 10; ++i) wanted[i] = 2;
  EXPECT_EQ(elements(bucket), wanted);
  expect_error([&] { w->place_gradient(bucket.rows(0, 5)); }, {"parameter w", "[5]", "[2, 3]"});
}

TEST_F(ParameterTest, WrongDeclarationsAreErrorsThatNameTheParameter) {
  expect_error(
      [] {
        Parameter("w", {4}, {{}, {4}}, dense(partial, replicated, replicated));
      },
      {"parameter w", "partial on share"});
  expect_error([] { Parameter("w", {4, 4}, {{}, {4}}, {}); }, {"parameter w", "[4]", "[4, 4]"});
  Parameter w("w", {4, 4}, {{}, {4, 4}}, {});
  expect_error([&] { w.gradient(); }, {"parameter w", "initialise()"});
  Pack pack("fused", {&w});
  expect_error([&] { static_cast<void>(borrow(w)); }, {"parameter w", "initialise()"});
  expect_error([&] { borrow(pack, DType::f32); }, {"pack fused", "w", "initialise()"});
}

TEST_F(ParameterTest, WithoutATapeABorrowedWeightIsAConstant) {
  const Weight w = make_weight("w", {3, 4}, device, dense(replicated, replicated, replicated));
  Pack pack("w", {w.get()});
  EXPECT_TRUE(borrow(*w).label.constant);
  EXPECT_TRUE(borrow(pack, DType::f64).labels[0].constant);
  Tape tape;
  const Tape::Recording on(&tape);
  EXPECT_EQ(borrow(*w).label, w->label());
  EXPECT_EQ(borrow(pack, DType::f64).labels[0], w->label());
}

// --- Packs ---------------------------------------------------------------------------------------

// The bytes of a pack's blocked copies.
std::vector<std::uint8_t> copies_of(const Packed& packed) {
  auto bytes = packed.forward.to_vector<std::uint8_t>();
  const auto backward = packed.backward.to_vector<std::uint8_t>();
  bytes.insert(bytes.end(), backward.begin(), backward.end());
  return bytes;
}

struct PackTest : ParameterTest {
  Weight a = make_weight("a", {33, 40}, device, {}, DType::bf16),
         b = make_weight("b", {20, 40}, device, {}, DType::bf16);
  Pack pack{"ab", {a.get(), b.get()}};
};

TEST_F(PackTest, Bf16PacksHoldBlockedCopiesAndOthersReadTheValues) {
  EXPECT_TRUE(borrow(pack, DType::bf16).packed.forward);
  const Weight w = make_weight("w", {3, 4}, device, {}, DType::f32);
  Pack plain("w", {w.get()});
  EXPECT_FALSE(borrow(plain, DType::f32).packed.forward);
  EXPECT_TRUE(borrow(plain, DType::f32).packed.parts[0].is_same_view(w->value()));
}

TEST_F(PackTest, APackIsRebuiltWhenAValueChangedAndNotOtherwise) {
  const auto before = copies_of(borrow(pack, DType::bf16).packed);
  backend(b->value()).fill(b->value(), 0.25);
  EXPECT_EQ(copies_of(borrow(pack, DType::bf16).packed), before);  // nobody said so
  b->changed();
  const auto after = copies_of(borrow(pack, DType::bf16).packed);
  EXPECT_NE(after, before);
  // Rebuilt in place, and only once.
  const Tensor forward = borrow(pack, DType::bf16).packed.forward;
  backend(forward).fill(forward, 0);
  EXPECT_EQ(forward.to_vector<std::uint8_t>(),
            borrow(pack, DType::bf16).packed.forward.to_vector<std::uint8_t>());
}

TEST_F(PackTest, AnOptimizerThatRebuiltTheCopiesSaysSo) {
  EXPECT_EQ(pack.copies(), nullptr);
  borrow(pack, DType::bf16);
  Packed* copies = pack.copies();
  ASSERT_NE(copies, nullptr);
  backend(copies->forward).fill(copies->forward, 7);
  a->changed();
  pack.rebuilt();
  const auto found = borrow(pack, DType::bf16).packed.forward.to_vector<std::uint8_t>();
  EXPECT_EQ(found, std::vector<std::uint8_t>(found.size(), 7));
}

TEST_F(PackTest, AProductSeesAChangedValue) {
  const Tensor x = random_tensor({9, 40}, DType::bf16, device, 1);
  linear(x, pack);
  backend(b->value()).fill(b->value(), 0);
  b->changed();
  const auto y = linear(x, pack);
  EXPECT_EQ(elements(y[1]), std::vector<double>(180, 0.0));
  EXPECT_NE(elements(y[0]), std::vector<double>(297, 0.0));
}

TEST_F(PackTest, TwoOpsMayShareAPackAndAParameterTwoPacks) {
  const Weight w = make_weight("w", {5, 5}, device), v = make_weight("v", {3, 5}, device);
  Pack one("one", {w.get()}), both("both", {v.get(), w.get()});
  expect_gradients(
      [&](const std::vector<Tensor>& x) {
        const Tensor h = linear(x[0], one)[0];
        auto y = linear(h, both);
        y.push_back(linear(h, one)[0]);
        return y;
      },
      {random_tensor({4, 5}, DType::f64, device, 1)}, {w.get(), v.get()});
}

TEST_F(PackTest, PartsThatDoNotFitAreAnErrorThatNamesThem) {
  const Weight narrow = make_weight("narrow", {3, 7}, device),
               experts_of = make_weight("experts", {2, 3, 40}, device),
               vector = make_weight("vector", {40}, device);
  expect_error([&] { Pack("p", {a.get(), narrow.get()}); }, {"pack p", "narrow", "[3, 7]"});
  expect_error([&] { Pack("p", {a.get(), experts_of.get()}); }, {"pack p", "experts"});
  expect_error([&] { Pack("p", {vector.get()}); }, {"pack p", "vector"});
  expect_error([] { Pack("p", {}); }, {"pack p", "no parts"});
}

TEST_F(PackTest, APackIsTrainableWhileOneOfItsPartsIs) {
  a->freeze();
  EXPECT_TRUE(pack.is_trainable());
  b->freeze();
  EXPECT_FALSE(pack.is_trainable());
}

}  // namespace
}  // namespace pf
