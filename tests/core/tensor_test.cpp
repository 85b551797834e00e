// Shapes, element types and views.
#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;

struct TensorTest : testing::Test {
  Device device{make_cpu_backend(1)};
  // Elements 0, 1, 2, ...
  Tensor counting(const Shape& shape) {
    std::vector<double> values;
    for (std::int64_t i = 0; i < shape.size(); ++i) values.push_back(double(i));
    return tensor_of(values, shape, device);
  }
};

TEST(Shape, CountsDimsFromEitherEnd) {
  const Shape shape{2, 3, 5};
  EXPECT_EQ(shape[-1], 5);
  EXPECT_EQ(shape[0], 2);
  EXPECT_EQ(shape[-3], 2);
  expect_error([&] { static_cast<void>(shape[3]); }, {"dim 3 of [2, 3, 5]"});
  expect_error([&] { static_cast<void>(shape[-4]); }, {"dim -4 of [2, 3, 5]"});
}

TEST(Shape, RowsTimesColumnsIsTheSize) {
  EXPECT_EQ(Shape({2, 3, 5}).rows(), 6);
  EXPECT_EQ(Shape({2, 3, 5}).columns(), 5);
  EXPECT_EQ(Shape({7}).rows(), 1);
  EXPECT_EQ(Shape({7}).columns(), 7);
  EXPECT_EQ(Shape().size(), 1);
  EXPECT_EQ(Shape({4, 0}).rows(), 4);
  EXPECT_EQ(Shape({4, 0}).size(), 0);
}

TEST(Shape, HasAtMostFourDimsNoneNegative) {
  EXPECT_EQ(Shape({1, 2, 3, 4}).dims(), 4);
  expect_error([] { Shape({1, 2, 3, 4, 5}); }, {"5 dims", "at most 4"});
  expect_error([] { Shape({2, -1}); }, {"an extent of -1"});
}

TEST(Shape, IsToldInBrackets) {
  std::ostringstream out;
  out << Shape({2, 3}) << Shape();
  EXPECT_EQ(out.str(), "[2, 3][]");
}

TEST(Bf16, RoundsToTheNearestEven) {
  const auto rounded = [](float value) { return float(Bf16(value)); };
  EXPECT_EQ(rounded(1.0f), 1.0f);
  EXPECT_EQ(rounded(1.0f + 0x1p-8f), 1.0f);              // a tie, to even
  EXPECT_EQ(rounded(1.0f + 0x3p-8f), 1.0f + 0x4p-8f);    // a tie, to even
  EXPECT_EQ(rounded(1.0f + 0x1.1p-8f), 1.0f + 0x2p-8f);  // above the tie
  EXPECT_EQ(rounded(-3.4e38f), -std::numeric_limits<float>::infinity());
}

TEST(Bf16, KeepsWhatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float(Bf16(infinity)), infinity);
  EXPECT_EQ(float(Bf16(-infinity)), -infinity);
  EXPECT_TRUE(std::isnan(float(Bf16(std::nanf("1")))));
  EXPECT_TRUE(std::isnan(float(Bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DType, AccumulationIsF64ForF64AndF32ForTheRest) {
  EXPECT_EQ(accumulation(DType::f64), DType::f64);
  EXPECT_EQ(accumulation(DType::f32), DType::f32);
  EXPECT_EQ(accumulation(DType::bf16), DType::f32);
}

TEST_F(TensorTest, RowsAndColumnsAreViews) {
  const Tensor x = counting({4, 5});
  const Tensor view = x.rows(1, 3).columns(2, 4);
  EXPECT_EQ(view.to_vector<double>(), (std::vector<double>{7, 8, 12, 13}));
  view.data<double>()[0] = 100;
  EXPECT_EQ(x.to_vector<double>()[7], 100);
  EXPECT_EQ(view.pitch(), 5);
  EXPECT_FALSE(view.is_contiguous());
  EXPECT_TRUE(x.rows(1, 3).is_contiguous());
}

TEST_F(TensorTest, RowsAreOfTheFirstDim) {
  EXPECT_EQ(counting({5}).rows(1, 3).to_vector<double>(), (std::vector<double>{1, 2}));
  EXPECT_EQ(counting({3, 2, 2}).rows(1, 2).to_vector<double>(), (std::vector<double>{4, 5, 6, 7}));
  EXPECT_EQ(counting({3, 2}).rows(2, 2).shape(), Shape({0, 2}));
  EXPECT_EQ(counting({0, 2}).rows(0, 0).shape(), Shape({0, 2}));
}

TEST_F(TensorTest, ViewsBeyondTheirTensorAreErrors) {
  const Tensor x = counting({4, 5});
  expect_error([&] { static_cast<void>(x.rows(2, 5)); }, {"rows: [2, 5) of [4, 5]"});
  expect_error([&] { static_cast<void>(x.rows(3, 2)); }, {"rows: [3, 2)"});
  expect_error([&] { static_cast<void>(x.columns(-1, 2)); }, {"columns: [-1, 2) of [4, 5]"});
  expect_error([&] { static_cast<void>(counting({5}).columns(0, 1)); }, {"columns", "[5]"});
  expect_error([&] { static_cast<void>(x.columns(0, 2).reshaped({8})); },
               {"reshape: [4, 2] with pitch 5 to [8]"});
  expect_error([&] { static_cast<void>(x.reshaped({3, 7})); }, {"reshape: [4, 5]", "[3, 7]"});
}

TEST_F(TensorTest, AReshapedTensorIsTheSameData) {
  const Tensor x = counting({4, 6});
  const Tensor y = x.reshaped({2, 2, 6});
  EXPECT_EQ(y.raw(), x.raw());
  EXPECT_EQ(y.to_vector<double>(), x.to_vector<double>());
  EXPECT_EQ(x.rows(1, 2).reshaped({2, 3}).to_vector<double>(),
            (std::vector<double>{6, 7, 8, 9, 10, 11}));
}

TEST_F(TensorTest, AWidenedViewIsTheMatrixThatItBegins) {
  const Tensor x = counting({3, 6});
  EXPECT_TRUE(x.columns(0, 2).widened(6).is_same_view(x));
  EXPECT_TRUE(x.columns(2, 4).widened(4).is_same_view(x.columns(2, 6)) ||
              !x.columns(2, 4).widened(4));
  EXPECT_FALSE(x.columns(0, 2).widened(7));
  EXPECT_FALSE(x.columns(2, 4).widened(6));  // would end beyond the storage
}

TEST_F(TensorTest, ViewsKeepTheLabelAndLoseTheSlot) {
  const Label label = dense(rows, rows, rows);
  const Tensor x = Tensor::empty({4, 4}, DType::f32, device, label).with_slot({7, 3});
  for (const Tensor& view : {x.rows(0, 2), x.columns(0, 2), x.reshaped({16})}) {
    EXPECT_EQ(view.label(), label);
    EXPECT_LT(view.slot().index, 0);
  }
  EXPECT_EQ(x.labelled(label).slot().index, 3);
}

TEST_F(TensorTest, IntegersAndDetachedTensorsAreConstants) {
  EXPECT_TRUE(Tensor::empty({2}, DType::i32, device).label().constant);
  EXPECT_FALSE(Tensor::empty({2}, DType::f32, device).label().constant);
  const Tensor x = Tensor::empty({2}, DType::f32, device).with_slot({7, 3}).detached();
  EXPECT_TRUE(x.label().constant);
  EXPECT_LT(x.slot().index, 0);
}

TEST_F(TensorTest, ATensorTellsItsTypeShapeAndSpreads) {
  const Tensor x = Tensor::empty({512, 256}, DType::bf16, device, dense(rows, rows, replicated));
  EXPECT_EQ(x.text(), "bf16 [512, 256] tp:rows cp:rows dp:replicated pp:layers");
}

TEST_F(TensorTest, TheWrongElementTypeIsAnErrorThatNamesBoth) {
  expect_error([&] { static_cast<void>(counting({2}).data<float>()); },
               {"wants f32", "found f64 [2]"});
  expect_error([&] { static_cast<void>(counting({2}).to_vector<std::int32_t>()); }, {"wants i32"});
}

TEST_F(TensorTest, AnItemIsTheOneElementOfAnyType) {
  for (DType type : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8})
    EXPECT_EQ(Tensor::scalar(3, type, device).item(), 3);
  expect_error([&] { static_cast<void>(counting({2}).item()); }, {"item", "[2]"});
}

TEST_F(TensorTest, ADefaultTensorIsEmptyAndOneWithoutElementsIsNot) {
  EXPECT_FALSE(Tensor());
  const Tensor none = Tensor::zeros({0, 3}, DType::f32, device);
  EXPECT_TRUE(none);
  EXPECT_TRUE(none.to_vector<float>().empty());
}

TEST_F(TensorTest, AGradientIsLikeItsTensorWithTheDualLabel) {
  const Tensor x = Tensor::empty({3, 2}, DType::bf16, device, dense(replicated, partial, rows));
  const Tensor dx = Tensor::gradient_like(x);
  EXPECT_EQ(dx.shape(), x.shape());
  EXPECT_EQ(dx.dtype(), x.dtype());
  EXPECT_EQ(dx.label(), dense(partial, replicated, rows));
}

TEST(Error, KnowsWhereItWasNoticed) {
  try {
    require(1 + 1 == 3, "sum: ", 2, "; 3 is wanted");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "sum: 2; 3 is wanted");
    EXPECT_NE(error.where().find("tensor_test.cpp:"), std::string::npos);
  }
}

}  // namespace
}  // namespace pf
