// Sums and largest values over ranks, to the bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "parallel/table.h"
#include "tests/parallel/matrix.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;

// Values whose sum depends on the order.
Tensor uneven_values(const Mesh& mesh, const Shape& shape, DType type) {
  const Matrix x = random(1, shape.size(), unsigned(mesh.rank()));
  const Label label = dense(rows, rows, partial);
  const Tensor wide = Tensor::empty(shape, DType::f64, mesh.device(), label);
  for (std::size_t i = 0; i < x.values.size(); ++i)
    wide.data<double>()[i] = std::ldexp(1 / (x.values[i] + 9.5), int(i + 7 * mesh.rank()) % 23);
  const Tensor y = Tensor::empty(shape, type, mesh.device(), label);
  backend(y).copy(y, wide);
  return y;
}

template <class T, class Sum>
void expect_sums_in_rank_order(const Shape& shape) {
  for (int count : {2, 3, 4}) {
    std::vector<std::vector<T>> xs(static_cast<std::size_t>(count)), ys = xs, again = xs;
    in_ranks(count, [&](const Mesh& mesh) {
      const auto self = std::size_t(mesh.rank());
      const Tensor x = uneven_values(mesh, shape, dtype_of<T>());
      xs[self] = x.to_vector<T>();
      ys[self] = all_reduce(x, mesh, axes::dp).template to_vector<T>();
      again[self] = all_reduce(x, mesh, axes::dp).template to_vector<T>();
    });
    std::vector<T> want = xs[0];
    for (std::size_t i = 0; i < want.size(); ++i) {
      Sum sum(xs[0][i]);
      for (int r = 1; r < count; ++r) sum += Sum(xs[std::size_t(r)][i]);
      want[i] = T(sum);
    }
    const std::size_t bytes = want.size() * sizeof(T);
    for (std::size_t r = 0; r < ys.size(); ++r) {
      EXPECT_EQ(std::memcmp(ys[r].data(), want.data(), bytes), 0) << shape << ", rank " << r;
      EXPECT_EQ(std::memcmp(again[r].data(), want.data(), bytes), 0) << shape << ", rank " << r;
    }
  }
}

TEST(AllReduce, SumsInRankOrderWithTheSameBitsOnEveryRank) {
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{301, 97}}) {
    expect_sums_in_rank_order<double, double>(shape);
    expect_sums_in_rank_order<float, float>(shape);
  }
}

TEST(AllReduce, SumsBf16InF32AndRoundsOnce) {
  for (const Shape& shape : {Shape{7}, Shape{301, 97}})
    expect_sums_in_rank_order<Bf16, float>(shape);
}

TEST(ReduceScatter, GivesTheBitsOfAllReduce) {
  in_ranks(3, [](const Mesh& mesh) {
    for (const DType type : {DType::f64, DType::f32}) {
      const Tensor x = uneven_values(mesh, {300, 97}, type);
      const Tensor all = all_reduce(x, mesh, axes::dp), part = reduce_scatter(x, mesh, axes::dp);
      const Tensor want = all.rows(100 * mesh.rank(), 100 * mesh.rank() + 100);
      EXPECT_EQ(std::memcmp(part.raw(), want.raw(), std::size_t(part.size()) * size_of(type)), 0);
    }
  });
}

TEST(AllReduce, SumsIntegers) {
  in_ranks(3, [](const Mesh& mesh) {
    const Label label = dense(rows, rows, partial);
    const Tensor x = Tensor::empty({5000}, DType::i64, mesh.device(), label);
    for (std::int64_t i = 0; i < x.size(); ++i) x.data<std::int64_t>()[i] = (i + mesh.rank()) << 40;
    const auto y = all_reduce(x, mesh, axes::dp).to_vector<std::int64_t>();
    for (std::int64_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[std::size_t(i)], (3 * i + 3) << 40);
    const Tensor small = Tensor::scalar(mesh.rank() + 1, DType::i32, mesh.device(), label);
    EXPECT_EQ(all_reduce(small, mesh, axes::dp).item(), 6);
  });
}

TEST(AllMax, TakesTheLargestOfConstantsElementByElement) {
  in_ranks(3, [](const Mesh& mesh) {
    const Label label = constant(dense(rows, rows, columns));
    const Matrix values{1, 3, {double(mesh.rank()), double(-mesh.rank()), 5}};
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      const Tensor y = all_max(tensor(values, mesh.device(), label, type), mesh, axes::dp);
      EXPECT_EQ(y.label()[Axis::dp], replicated);
      const Tensor wide = Tensor::empty(y.shape(), DType::f64, mesh.device());
      backend(y).copy(wide, y);
      EXPECT_EQ(wide.to_vector<double>(), (std::vector<double>{2, 0, 5}));
    }
    const Tensor count = Tensor::scalar(7 - mesh.rank(), DType::i64, mesh.device(), label);
    EXPECT_EQ(all_max(count, mesh, axes::dp).item(), 7);
    const Matrix unknown{1, 1, {mesh.rank() == 1 ? std::nan("") : 1.0}};
    const Tensor y = all_max(tensor(unknown, mesh.device(), label), mesh, axes::dp);
    EXPECT_TRUE(std::isnan(y.item()));
  });
}

TEST(AllMax, RefusesWhatWantsAGradientAndSumsNotYetDone) {
  in_ranks(1, [](const Mesh& mesh) {
    const Matrix x = zeros(2, 2);
    EXPECT_THROW(all_max(tensor(x, mesh.device(), dense(rows, rows, rows)), mesh, axes::dp), Error);
    const Label label = constant(dense(rows, rows, partial));
    EXPECT_THROW(all_max(tensor(x, mesh.device(), label), mesh, axes::dp), Error);
  });
}

}  // namespace
}  // namespace pf
