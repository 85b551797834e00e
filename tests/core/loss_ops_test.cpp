// The parts of losses.
#include "core/ops/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;

struct LossOp : testing::Test {
  Device device{make_cpu_backend(2)};
  const Label tokens = dense(rows, rows, rows);

  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {},
              DType type = DType::f64) {
    return random_tensor(shape, type, device, seed, label);
  }
  Tensor mask(const std::vector<double>& values, const Label& label = {}) {
    return tensor_of(values, {std::int64_t(values.size())}, device, constant(label));
  }
};

TEST_F(LossOp, LossPartsHaveTheGradientsOfFiniteDifferences) {
  const Label cut = dense(columns, rows, rows);
  const Tensor logits = make({4, 7}, 1, cut),
               top = row_max(logits).labelled(constant(tokens.with(axes::tp, replicated)));
  // Of the columns 14 to 20; the second target is not here.
  const Tensor target = ids_of({14, 3, 20, 17}, device).labelled(top.label());
  expect_gradients(
      [&](const Tensors& x) {
        const LossParts y = loss_parts(x[0], top, target, 14, axes::tp);
        return Tensors{y.exp_sum, y.picked};
      },
      {logits});
}

TEST_F(LossOp, LossPartsOfCutColumnsArePartial) {
  const Label cut = dense(columns, rows, rows);
  const Tensor logits = make({4, 7}, 1, cut);
  const Label of_rows = constant(dense(replicated, rows, rows));
  const LossParts y = loss_parts(logits, row_max(logits).labelled(of_rows),
                                 ids_of({1, 2, 3, 4}, device).labelled(of_rows), 0, axes::tp);
  EXPECT_EQ(y.exp_sum.label(), dense(partial, rows, rows));
  EXPECT_EQ(y.picked.label(), dense(partial, rows, rows));
}

TEST_F(LossOp, PartsOfTheVocabularyAddUpToTheWhole) {
  const Tensor logits = make({4, 7}, 1), top = row_max(logits);
  const Tensor target = ids_of({6, 0, 2, 3}, device);
  const LossParts all = loss_parts(logits, top, target, 0, {}),
                  low = loss_parts(logits.columns(0, 3), top, target, 0, {}),
                  high = loss_parts(logits.columns(3, 7), top, target, 3, {});
  for (std::size_t t = 0; t < 4; ++t) {
    EXPECT_NEAR(all.exp_sum.to_vector<double>()[t],
                low.exp_sum.to_vector<double>()[t] + high.exp_sum.to_vector<double>()[t], 1e-15);
    EXPECT_EQ(all.picked.to_vector<double>()[t],
              low.picked.to_vector<double>()[t] + high.picked.to_vector<double>()[t]);
  }
}

TEST_F(LossOp, CrossEntropyHasTheGradientsOfFiniteDifferences) {
  const Label reduced = dense(invariant, rows, rows);
  const Tensor top = make({5}, 1).labelled(constant(reduced));
  const Tensor valid = mask({1, 0, 1, 1, 0.5}, reduced);
  const Tensor sums = tensor_of<double>({1.5, 3, 2.25, 1.25, 4}, {5}, device, reduced);
  expect_gradients(
      [&](const Tensors& x) {
        return Tensors{cross_entropy({x[0], x[1]}, top, valid, 0.2)};
      },
      {sums, make({5}, 2, reduced)});
}

TEST_F(LossOp, CrossEntropyOfLogitsEqualsTheFormula) {
  const Tensor logits = make({3, 6}, 1);
  const Tensor target = ids_of({5, 1, 2}, device), valid = mask({1, 0, 1}), top = row_max(logits);
  const Tensor loss = cross_entropy(loss_parts(logits, top, target, 0, {}), top, valid, 0.5);
  const auto x = logits.to_vector<double>();
  double wanted = 0;
  for (std::size_t t : {0, 2}) {
    double sum = 0;
    for (std::size_t c = 0; c < 6; ++c) sum += std::exp(x[t * 6 + c]);
    wanted += 0.5 * (std::log(sum) - x[t * 6 + (t == 0 ? 5 : 2)]);
  }
  EXPECT_NEAR(loss.item(), wanted, 1e-14);
  EXPECT_EQ(loss.shape(), Shape());
}

TEST_F(LossOp, CrossEntropyOfHugeLogitsIsFinite) {
  const Tensor logits = tensor_of<double>({-1e4, 1e4, 9999, 0, 1, -1e4}, {2, 3}, device);
  const Tensor top = row_max(logits);
  const LossParts parts = loss_parts(logits, top, ids_of({1, 1}, device), 0, {});
  const double loss = cross_entropy(parts, top, mask({1, 1}), 1).item();
  EXPECT_NEAR(loss, std::log(1 + std::exp(-1.0)) * 2 - 0, 1e-12);
}

TEST_F(LossOp, CrossEntropyOfTokensThatRanksDivideIsPartial) {
  const Label reduced = dense(invariant, rows, rows);
  const Tensor one = make({5}, 2, reduced), top = make({5}, 1).labelled(constant(reduced));
  EXPECT_EQ(cross_entropy({one, one}, top, top, 1).label(),
            dense(invariant, partial, partial, partial));
}

TEST_F(LossOp, LossesWithWrongOperandsAreErrorsThatNameThem) {
  const Tensor logits = make({4, 7}, 1), top = row_max(logits);
  const Tensor target = ids_of({1, 2, 3, 4}, device), valid = mask({1, 1, 1, 1});
  const LossParts parts = loss_parts(logits, top, target, 0, {});
  expect_error([&] { loss_parts(logits, top.rows(0, 3), target, 0, {}); }, {"loss_parts", "[3]"});
  expect_error([&] { loss_parts(logits, top, valid, 0, {}); }, {"loss_parts", "target f64"});
  expect_error([&] { loss_parts(logits, make({4}, 1, {}, DType::f32), target, 0, {}); },
               {"loss_parts", "top f32"});
  expect_error([&] { cross_entropy(parts, top, mask({1, 1, 1}), 1); }, {"cross_entropy", "[3]"});
  expect_error([&] { cross_entropy(parts, top, make({4}, 1, {}, DType::f32), 1); },
               {"cross_entropy", "mask f32"});
  expect_error(
      [&] {
        const Tensor pending = make({4}, 1, dense(partial, rows, rows));
        cross_entropy({pending, pending}, top, valid, 1);
      },
      {"cross_entropy", "partial on share", "all_reduce()"});
}

TEST_F(LossOp, SegmentSumHasTheGradientsOfFiniteDifferences) {
  const Tensor valid = mask({1, 0.5, 0, 2, 1}, tokens);
  const Tensor segment = ids_of({2, 0, 1, 2, 0}, device).labelled(constant(tokens));
  for (const Tensor& of : {Tensor(), segment})
    expect_gradients(
        [&](const Tensors& x) {
          return Tensors{segment_sum(x[0], valid, of, of ? 4 : 1, axes::tp * axes::cp)};
        },
        {make({5, 3}, 1, tokens)});
}

TEST_F(LossOp, SegmentSumOfBf16IsKeptInF32) {
  const Tensor x = make({5, 3}, 1, {}, DType::bf16);
  Tape tape;
  const Tensor in = tape.watch(x);
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = segment_sum(in, random_tensor({5}, DType::f32, device, 2).detached(), {}, 1, {});
  }
  EXPECT_EQ(y.dtype(), DType::f32);
  const Tensor ys[] = {y}, dys[] = {random_tensor(y.shape(), DType::f32, device, 3)};
  tape.backward(ys, dys);
  EXPECT_EQ(tape.gradient(in).dtype(), DType::bf16);
}

TEST_F(LossOp, SegmentSumWithWrongOperandsIsAnErrorThatNamesThem) {
  const Tensor x = make({5, 3}, 1);
  const Tensor valid = mask({1, 1, 1, 1, 1});
  expect_error([&] { segment_sum(x, mask({1}), {}, 1, {}); }, {"segment_sum", "mask", "[1]"});
  expect_error([&] { segment_sum(x, make({5}, 1, {}, DType::f32), {}, 1, {}); },
               {"segment_sum", "f32"});
  expect_error(
      [&] {
        segment_sum(x, valid, ids_of({0, 0}, device), 1, {});
      },
      {"segment_sum", "segment", "[2]"});
  expect_error([&] { segment_sum(x, valid, valid, 1, {}); }, {"segment_sum", "segment f64"});
  expect_error([&] { segment_sum(x.labelled(dense(columns, rows, rows)), valid, {}, 1, axes::tp); },
               {"segment_sum", "wants rows on share", "columns"});
}

TEST_F(LossOp, DotHasTheGradientsOfFiniteDifferences) {
  const Tensor b = make({3, 5}, 2).labelled(constant(tokens));
  expect_gradients([&](const Tensors& x) { return Tensors{dot(x[0], b, -1.5)}; },
                   {make({3, 5}, 1, tokens)});
  const Tensor shares = make({1, 5}, 2).detached();
  expect_gradients([&](const Tensors& x) { return Tensors{dot(x[0], shares, 3)}; },
                   {make({1, 5}, 1, dense(partial, partial, partial))});
}

TEST_F(LossOp, DotReadsItsConstantInBackwardOnly) {
  const Tensor a = make({4}, 1), b = make({4}, 2).detached();
  Tape tape;
  const Tensor in = tape.watch(a);
  {
    const Tape::Recording on(&tape);
    Tape::root(dot(in, b, 2));
  }
  backend(b).fill(b, 7);
  tape.backward();
  EXPECT_EQ(tape.gradient(in).to_vector<double>(), std::vector<double>(4, 14.0));
}

TEST_F(LossOp, DotWithWrongOperandsIsAnErrorThatNamesThem) {
  const Tensor a = make({4}, 1);
  expect_error([&] { dot(a, make({5}, 2).detached(), 1); }, {"dot", "[4]", "[5]"});
  expect_error([&] { dot(a, make({4}, 2, {}, DType::f32).detached(), 1); }, {"dot", "f32"});
  expect_error([&] { dot(a, make({4}, 2), 1); }, {"dot", "constant"});
  expect_error(
      [&] { dot(a, make({4}, 2).labelled(constant(dense(partial, partial, partial))), 1); },
      {"dot", "partial on share"});
}

TEST_F(LossOp, SquareSumHasTheGradientsOfFiniteDifferences) {
  const Tensor valid = mask({1, 0, 1, 0.25, 2}, tokens);
  expect_gradients([&](const Tensors& x) { return Tensors{square_sum(x[0], valid, 0.3)}; },
                   {make({5}, 1, tokens)});
}

TEST_F(LossOp, SquareSumWithWrongOperandsIsAnErrorThatNamesThem) {
  const Tensor x = make({5}, 1);
  expect_error([&] { square_sum(x, mask({1}), 1); }, {"square_sum", "[5]", "[1]"});
  expect_error([&] { square_sum(x, make({5}, 1, {}, DType::f32), 1); }, {"square_sum", "f32"});
  expect_error(
      [&] {
        square_sum(x.labelled(dense(partial, rows, rows)), mask({1, 1, 1, 1, 1}), 1);
      },
      {"square_sum", "partial on share"});
}

TEST_F(LossOp, NormalisedRowsSumToOneAndRowsOfZerosStay) {
  const Tensor x = tensor_of<double>({1, 3, 4, 0, 0, 0}, {2, 3}, device).detached();
  EXPECT_EQ(normalise_rows(x).to_vector<double>(),
            (std::vector<double>{0.125, 0.375, 0.5, 0, 0, 0}));
}

TEST_F(LossOp, NormaliseRowsOfAnythingButAWholeConstantIsAnError) {
  expect_error([&] { normalise_rows(make({2, 3}, 1)); }, {"normalise_rows", "constant"});
  expect_error(
      [&] {
        normalise_rows(make({2, 3}, 1).labelled(constant(dense(partial, rows, rows))));
      },
      {"normalise_rows", "partial on share", "all_reduce()"});
}

}  // namespace
}  // namespace pf
