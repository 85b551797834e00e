// Matrices of small integers and what a plain program does with them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/backend.h"
#include "core/tensor.h"

namespace pf {

// What one rank holds, in f64. Numbers are small integers, so that all sums are exact.
struct Matrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;

  double& at(std::int64_t r, std::int64_t c) { return values[std::size_t(r * columns + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return values[std::size_t(r * columns + c)]; }
  friend bool operator==(const Matrix&, const Matrix&) = default;
};
using Matrices = std::vector<Matrix>;

inline Matrix zeros(std::int64_t rows, std::int64_t columns) {
  return {rows, columns, std::vector<double>(std::size_t(rows * columns))};
}

inline Matrix random(std::int64_t rows, std::int64_t columns, unsigned seed) {
  std::mt19937 engine(seed);
  Matrix x = zeros(rows, columns);
  for (double& value : x.values) value = double(engine() % 17) - 8;
  return x;
}

inline Matrix rows_of(const Matrix& x, std::int64_t begin, std::int64_t end) {
  Matrix y = zeros(end - begin, x.columns);
  std::copy_n(x.values.begin() + begin * x.columns, y.values.size(), y.values.begin());
  return y;
}

inline Matrix columns_of(const Matrix& x, std::int64_t begin, std::int64_t end) {
  Matrix y = zeros(x.rows, end - begin);
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t c = 0; c < y.columns; ++c) y.at(r, c) = x.at(r, begin + c);
  return y;
}

inline Matrix stacked(const Matrices& xs) {
  Matrix y{0, xs[0].columns, {}};
  for (const Matrix& x : xs) {
    y.rows += x.rows;
    y.values.insert(y.values.end(), x.values.begin(), x.values.end());
  }
  return y;
}

inline Matrix side_by_side(const Matrices& xs) {
  Matrix y = zeros(xs[0].rows, 0);
  for (const Matrix& x : xs) y.columns += x.columns;
  y.values.resize(std::size_t(y.rows * y.columns));
  std::int64_t begin = 0;
  for (const Matrix& x : xs) {
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t c = 0; c < x.columns; ++c) y.at(r, begin + c) = x.at(r, c);
    begin += x.columns;
  }
  return y;
}

inline Matrix sum(const Matrices& xs) {
  Matrix y = zeros(xs[0].rows, xs[0].columns);
  for (const Matrix& x : xs)
    for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] += x.values[i];
  return y;
}

inline Tensor tensor(const Matrix& x, Device& device, const Label& label, DType type = DType::f64) {
  const Tensor wide = Tensor::empty({x.rows, x.columns}, DType::f64, device, label);
  if (!x.values.empty())
    std::memcpy(wide.data<double>(), x.values.data(), x.values.size() * sizeof(double));
  if (type == DType::f64) return wide;
  const Tensor y = Tensor::empty(wide.shape(), type, device, label);
  backend(y).copy(y, wide);
  return y;
}

inline Matrix matrix(const Tensor& x) {
  return {x.rows(), x.columns(), x.to_vector<double>()};
}

}  // namespace pf
