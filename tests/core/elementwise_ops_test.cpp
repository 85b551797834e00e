// Ops that work element by element.
#include "core/ops/elementwise.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;

struct ElementwiseOp : testing::Test {
  Device device{make_cpu_backend(2)};
  const Label tokens = dense(rows, rows, rows), whole = dense(replicated, replicated, replicated);

  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {},
              DType type = DType::f64) {
    return random_tensor(shape, type, device, seed, label);
  }
};

TEST_F(ElementwiseOp, AddOfTwoHasTheGradientsOfFiniteDifferences) {
  expect_gradients([](const Tensors& x) { return Tensors{add(x[0], x[1])}; },
                   {make({7, 5}, 1, tokens), make({7, 5}, 2, tokens)});
}

TEST_F(ElementwiseOp, AddOfThreeHasTheGradientsOfFiniteDifferences) {
  expect_gradients([](const Tensors& x) { return Tensors{add(x[0], x[1], x[2])}; },
                   {make({3, 11}, 1), make({3, 11}, 2), make({3, 11}, 3)});
}

TEST_F(ElementwiseOp, AWholeTensorAddedToRowsHasAPartialGradient) {
  expect_gradients([](const Tensors& x) { return Tensors{add(x[0], x[1])}; },
                   {make({7, 5}, 1, tokens), make({7, 5}, 2, whole.with(axes::pp, layers))});
}

TEST_F(ElementwiseOp, PartialSumsMayBeAdded) {
  const Label pending = dense(partial, rows, rows);
  expect_gradients([](const Tensors& x) { return Tensors{add(x[0], x[1])}; },
                   {make({7, 5}, 1, pending), make({7, 5}, 2, pending)});
}

TEST_F(ElementwiseOp, AddOfUnlikeTensorsIsAnErrorThatNamesBoth) {
  expect_error([&] { add(make({7, 5}, 1), make({5, 7}, 2)); }, {"add", "[7, 5]", "[5, 7]"});
  expect_error(
      [&] {
        add(make({7, 5}, 1), make({7, 5}, 2, {}, DType::f32));
      },
      {"add", "f64", "f32"});
  expect_error([&] { add(make({7, 5}, 1), make({7, 5}, 1), make({7, 6}, 2)); }, {"add", "[7, 6]"});
  expect_error(
      [&] {
        add(make({7, 5}, 1, tokens), make({7, 5}, 2, dense(partial, rows, rows)));
      },
      {"add", "partial on share", "reduce_scatter()"});
}

TEST_F(ElementwiseOp, ScaleHasTheGradientsOfFiniteDifferences) {
  for (const Label& label : {tokens, whole, dense(partial, rows, rows)})
    expect_gradients([](const Tensors& x) { return Tensors{scale(x[0], -2.5)}; },
                     {make({6, 5}, 1, label)});
}

TEST_F(ElementwiseOp, CastHasTheGradientOfItsRounding) {
  const Tensor x = make({9, 7}, 1, tokens);
  Tape tape;
  const Tensor watched = tape.watch(x);
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = cast(watched, DType::f32);
  }
  EXPECT_EQ(y.dtype(), DType::f32);
  const Tensor dy = random_tensor({9, 7}, DType::f32, device, 2, gradient_of(y.label()));
  const Tensor ys[] = {y}, dys[] = {dy};
  tape.backward(ys, dys);
  const Tensor dx = tape.gradient(watched);
  EXPECT_EQ(dx.dtype(), DType::f64);
  EXPECT_EQ(elements(dx), elements(dy));
}

TEST_F(ElementwiseOp, CastToTheSameTypeIsTheSameTensor) {
  const Tensor x = make({9, 7}, 1);
  EXPECT_TRUE(cast(x, DType::f64).is_same_view(x));
}

TEST_F(ElementwiseOp, CastOfIntegersIsAnError) {
  expect_error([&] { cast(ids_of({1, 2}, device), DType::f32); }, {"cast", "i32"});
  expect_error([&] { cast(make({2, 2}, 1), DType::i64); }, {"cast", "i64"});
}

TEST_F(ElementwiseOp, SplitRowsHasTheGradientsOfFiniteDifferences) {
  for (std::int64_t run : {1, 3, 4, 7, 20})
    expect_gradients([run](const Tensors& x) { return split_rows(x[0], run); },
                     {make({7, 3}, 1, tokens)});
}

TEST_F(ElementwiseOp, SplitRowsGivesViewsTheLastOfThemShorter) {
  const Tensor x = make({7, 3}, 1);
  const Tensors parts = split_rows(x, 3);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_TRUE(parts[1].is_same_view(x.rows(3, 6)));
  EXPECT_TRUE(parts[2].is_same_view(x.rows(6, 7)));
}

TEST_F(ElementwiseOp, SplitRowsIntoRunsOfNoRowsIsAnError) {
  expect_error([&] { split_rows(make({7, 3}, 1), 0); }, {"split_rows", "0 rows"});
}

TEST_F(ElementwiseOp, SwigluHasTheGradientsOfFiniteDifferences) {
  const Label hidden = dense(columns, rows, rows);
  expect_gradients([](const Tensors& x) { return Tensors{swiglu(x[0], x[1])}; },
                   {make({7, 5}, 1, hidden), make({7, 5}, 2, hidden)});
}

TEST_F(ElementwiseOp, SwigluWithARowHasTheGradientsOfFiniteDifferences) {
  const Label gathered = expert(replicated, experts, rows);
  const Label hidden = expert(columns, experts, rows);
  expect_gradients([](const Tensors& x) { return Tensors{swiglu(x[0], x[1], x[2])}; },
                   {make({7, 11}, 1, hidden), make({7, 11}, 2, hidden), make({7}, 3, gathered)});
}

TEST_F(ElementwiseOp, SwigluOfColumnsOfOneMatrixHasTheGradientsOfFiniteDifferences) {
  const Tensor both = make({6, 10}, 1);
  const Tensor gate = both.columns(0, 5), up = both.columns(5, 10);
  Tape tape;
  const Tensor a = tape.watch(gate), b = tape.watch(up);
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = swiglu(a, b);
  }
  const Tensor ys[] = {y}, dys[] = {coefficients(y, 0)};
  tape.backward(ys, dys);
  const Tensor da = tape.gradient(a), db = tape.gradient(b);
  auto wanted =
      differences(both.data<double>(), 60, [&] { return functional({swiglu(gate, up)}); });
  std::vector<double> found;
  for (std::int64_t r = 0; r < 6; ++r)
    for (const Tensor& d : {da, db})
      for (const double value : d.rows(r, r + 1).to_vector<double>()) found.push_back(value);
  EXPECT_LE(distance(found, wanted), 1e-7);
}

TEST_F(ElementwiseOp, SwigluOfUnlikeTensorsIsAnErrorThatNamesThem) {
  expect_error([&] { swiglu(make({7, 5}, 1), make({7, 6}, 2)); }, {"swiglu", "[7, 5]", "[7, 6]"});
  expect_error(
      [&] {
        swiglu(make({7, 5}, 1), make({7, 5}, 2, {}, DType::bf16));
      },
      {"swiglu", "bf16"});
  expect_error(
      [&] {
        swiglu(make({7, 5}, 1), make({7, 5}, 2), make({5}, 3));
      },
      {"swiglu", "row", "[5]"});
  const Tensor half = make({7, 5}, 1, {}, DType::bf16);
  expect_error([&] { swiglu(half, half, make({7}, 3, {}, DType::bf16)); }, {"swiglu", "row"});
  expect_error(
      [&] {
        swiglu(make({7, 5}, 1, tokens), make({7, 5}, 2, dense(columns, rows, rows)));
      },
      {"swiglu", "rows", "columns", "share"});
}

TEST_F(ElementwiseOp, DropoutHasTheGradientsOfFiniteDifferences) {
  const Tensor token = tensor_of<std::int64_t>({40, 3, 17, 8, 9}, {5}, device);
  expect_gradients(
      [&](const Tensors& x) {
        return Tensors{dropout(x[0], 0.4, {3, 7, 1}, token, 11)};
      },
      {make({5, 11}, 1)});
}

TEST_F(ElementwiseOp, DropoutOfAWholeTensorByCutRowNumbersHasAPartialGradient) {
  const Label on_tp = dense(replicated, rows, rows);
  const Tensor token = tensor_of<std::int64_t>({4, 3, 1}, {3}, device, dense(rows, rows, rows));
  expect_gradients(
      [&](const Tensors& x) {
        return Tensors{dropout(x[0], 0.4, {3, 7, 1}, token, 11)};
      },
      {make({3, 11}, 1, on_tp)});
}

TEST_F(ElementwiseOp, DropoutOfCutColumnsDrawsWhatTheWholeRowDraws) {
  const Tensor x = make({6, 12}, 1);
  const Tensor token = tensor_of<std::int64_t>({5, 4, 30, 2, 1, 0}, {6}, device);
  const Random random{8, 2, 5};
  const Tensor all = dropout(x, 0.3, random, token, 12);
  for (std::int64_t begin : {0, 4, 8}) {
    const Tensor part = dropout(x.columns(begin, begin + 4), 0.3, random, token, 12, begin);
    EXPECT_EQ(part.to_vector<double>(), all.columns(begin, begin + 4).to_vector<double>());
  }
}

TEST_F(ElementwiseOp, DropoutOfOtherRowsInAnotherOrderDrawsByTheirNumbers) {
  const Tensor x = make({4, 9}, 1);
  const Random random{8, 2, 5};
  const auto number = [&](std::vector<std::int64_t> t) {
    return tensor_of(t, {std::int64_t(t.size())}, device);
  };
  const Tensor all = dropout(x, 0.5, random, number({10, 11, 12, 13}), 9);
  const Tensor later = dropout(x.rows(2, 4), 0.5, random, number({12, 13}), 9);
  EXPECT_EQ(later.to_vector<double>(), all.rows(2, 4).to_vector<double>());
}

TEST_F(ElementwiseOp, DropoutKeepsItsShareAndTheMean) {
  const Tensor x = Tensor::empty({100, 100}, DType::f64, device);
  backend(x).fill(x, 1);
  std::vector<std::int64_t> numbers;
  for (std::int64_t r = 0; r < 100; ++r) numbers.push_back(r);
  const Tensor y = dropout(x, 0.25, {1, 1, 1}, tensor_of(numbers, {100}, device), 100);
  double sum = 0;
  for (const double value : y.to_vector<double>()) {
    EXPECT_TRUE(value == 0 || value == 1 / 0.75);
    sum += value;
  }
  EXPECT_NEAR(sum / 10000, 1, 5 * 0.0058);  // sqrt(p / (1 - p) / 10000) is the deviation
}

TEST_F(ElementwiseOp, DropoutOfNothingIsTheSameTensor) {
  const Tensor x = make({2, 3}, 1);
  const Tensor token = tensor_of<std::int64_t>({0, 1}, {2}, device);
  EXPECT_TRUE(dropout(x, 0, {}, token, 3).is_same_view(x));
}

TEST_F(ElementwiseOp, DropoutWithWrongArgumentsIsAnErrorThatNamesThem) {
  const Tensor x = make({2, 3}, 1);
  const Tensor token = tensor_of<std::int64_t>({0, 1}, {2}, device);
  expect_error([&] { dropout(x, 1, {}, token, 3); }, {"dropout", "p is 1"});
  expect_error([&] { dropout(x, -0.5, {}, token, 3); }, {"dropout", "p is -0.5"});
  expect_error(
      [&] {
        dropout(x, 0.5, {}, ids_of({0, 1}, device), 3);
      },
      {"dropout", "token", "i32"});
  expect_error([&] { dropout(make({3, 3}, 1), 0.5, {}, token, 3); }, {"dropout", "[2]", "[3, 3]"});
  expect_error(
      [&] {
        dropout(make({2, 3}, 1, dense(columns, rows, rows)), 0.5, {},
                token.labelled(constant(tokens)), 3);
      },
      {"dropout", "share"});
}

}  // namespace
}  // namespace pf
