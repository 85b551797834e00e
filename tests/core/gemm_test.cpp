// Products of f32 and f64 against plain loops, with each instruction set that is here.
#include "core/cpu/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace pf {
namespace {

using i64 = std::int64_t;

template <class T>
struct Case {
  i64 m, n, k;
  bool a_turned, b_turned, adds;

  std::string text() const {
    return std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) +
           (a_turned ? ", A turned" : "") + (b_turned ? ", B turned" : "") + (adds ? ", adds" : "");
  }
};

template <class T>
std::vector<T> numbers(i64 size, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<T> between(-1, 1);
  std::vector<T> found(std::size_t(size), T(0));
  for (T& x : found) x = between(random);
  return found;
}

// A row longer than it must be by `extra`, whose elements stay as they are.
constexpr i64 extra = 3;

template <class T>
struct Stored {
  std::vector<T> values;
  Matrix<T> matrix;
};

template <class T>
Stored<T> stored(i64 rows, i64 columns, bool turned, unsigned seed) {
  const i64 pitch = (turned ? rows : columns) + extra;
  // Nothing lies behind the last element.
  const i64 size = pitch * (turned ? columns : rows) - extra;
  Stored<T> x{numbers<T>(std::max<i64>(0, size), seed), {}};
  x.matrix = {x.values.data(), pitch, turned};
  return x;
}

template <class T>
T at(const Matrix<T>& x, i64 row, i64 column) {
  return *x.from(row, column).data;
}

template <class T>
std::vector<T> product(Isa isa, const Case<T>& one, const Stored<T>& a, const Stored<T>& b,
                       std::vector<T> c) {
  const Gemm<T> gemm(isa);
  // Not a number wherever it is read before it is written.
  std::vector<T> packed(std::size_t(gemm.packed_size(one.k, one.n)),
                        std::numeric_limits<T>::quiet_NaN());
  const Panels<T> panels = gemm.panels(packed.data(), one.k);
  gemm.pack(panels, b.matrix, one.k, one.n);
  std::vector<unsigned char> scratch(gemm.scratch_bytes(one.m, one.k) + 128, 0xff);
  void* aligned = scratch.data();
  std::size_t space = scratch.size() - 64;
  std::align(64, space - 64, aligned, space);
  gemm.run(c.data(), one.n + extra, a.matrix, panels, {one.m, one.n, one.k, one.adds}, aligned);
  for (std::size_t i = scratch.size() - 64; i < scratch.size(); ++i) EXPECT_EQ(scratch[i], 0xff);
  return c;
}

template <class T>
void expect_right(const Case<T>& one) {
  const Stored<T> a = stored<T>(one.m, one.k, one.a_turned, 1);
  const Stored<T> b = stored<T>(one.k, one.n, one.b_turned, 2);
  const std::vector<T> before = numbers<T>(one.m * (one.n + extra), 3);
  const double error = sizeof(T) == 8 ? 1e-15 : 1e-6;
  for (const Isa isa : usable_isas()) {
    SCOPED_TRACE(one.text() + ", " + name(isa));
    const std::vector<T> c = product(isa, one, a, b, before);
    for (i64 r = 0; r < one.m; ++r)
      for (i64 j = 0; j < one.n + extra; ++j) {
        const std::size_t place = std::size_t(r * (one.n + extra) + j);
        if (j >= one.n) {
          ASSERT_EQ(c[place], before[place]) << r << ' ' << j;
          continue;
        }
        double wanted = one.adds ? before[place] : 0;
        for (i64 i = 0; i < one.k; ++i)
          wanted += double(at(a.matrix, r, i)) * double(at(b.matrix, i, j));
        ASSERT_NEAR(c[place], wanted, error * double(one.k + 1)) << r << ' ' << j;
      }
  }
}

template <class T>
void expect_all_right() {
  for (const auto& [m, n, k] : {std::array<i64, 3>{1, 1, 1},
                                {0, 5, 3},
                                {5, 0, 3},
                                {4, 5, 0},
                                {13, 35, 7},
                                {96, 64, 256},
                                {97, 513, 17},
                                {131, 70, 300},
                                {25, 33, 515},
                                {6, 16, 1030}})
    for (const bool a_turned : {false, true})
      for (const bool b_turned : {false, true})
        for (const bool adds : {false, true}) expect_right<T>({m, n, k, a_turned, b_turned, adds});
}

TEST(Gemm, EqualsPlainSumsInSingles) {
  expect_all_right<float>();
}

TEST(Gemm, EqualsPlainSumsInDoubles) {
  expect_all_right<double>();
}

// Rows of a larger product have the bits that they have alone, from any order of operands: what a
// layout gives a rank to do must not show.
template <class T>
void expect_same_rows() {
  const i64 m = 150, n = 530, k = 600;
  const Stored<T> a = stored<T>(m, k, false, 4), b = stored<T>(k, n, false, 5);
  const std::vector<T> zeros(std::size_t(m * (n + extra)), T(0));
  Stored<T> turned{std::vector<T>(std::size_t(k * m), T(0)), {}};
  for (i64 r = 0; r < m; ++r)
    for (i64 i = 0; i < k; ++i) turned.values[std::size_t(i * m + r)] = at(a.matrix, r, i);
  turned.matrix = {turned.values.data(), m, true};
  for (const Isa isa : usable_isas()) {
    const std::vector<T> whole = product(isa, Case<T>{m, n, k, false, false, false}, a, b, zeros);
    EXPECT_EQ(product(isa, Case<T>{m, n, k, true, false, false}, turned, b, zeros), whole);
    for (const i64 row : {0, 5, 95, 149}) {
      Stored<T> one;
      one.matrix = a.matrix.from(row, 0);
      std::vector<T> c(std::size_t(n + extra), T(0));
      c = product(isa, Case<T>{1, n, k, false, false, false}, one, b, c);
      EXPECT_EQ(std::memcmp(c.data(), whole.data() + row * (n + extra), std::size_t(n) * sizeof(T)),
                0)
          << "row " << row << ", " << name(isa);
    }
  }
}

TEST(Gemm, GivesARowTheSameBitsInAnyProduct) {
  expect_same_rows<float>();
  expect_same_rows<double>();
}

}  // namespace
}  // namespace pf
