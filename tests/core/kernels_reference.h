// For tests of kernels: tensors of random numbers, and their elements as doubles.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/cpu/cpu_backend.h"
#include "core/cpu/processor.h"
#include "core/device.h"
#include "core/tensor.h"

namespace pf::test {

// The elements of a tensor.
struct Table {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;

  double& operator()(std::int64_t r, std::int64_t c) {
    return values[std::size_t(r * columns + c)];
  }
  double operator()(std::int64_t r, std::int64_t c) const {
    return values[std::size_t(r * columns + c)];
  }
  double& operator[](std::int64_t i) { return values[std::size_t(i)]; }
  double operator[](std::int64_t i) const { return values[std::size_t(i)]; }
};

inline Table zeros(std::int64_t rows, std::int64_t columns) {
  return {rows, columns, std::vector<double>(std::size_t(rows * columns))};
}

template <class T>
Table table_of(const Tensor& x) {
  Table table{x.rows(), x.columns(), {}};
  for (T value : x.to_vector<T>()) table.values.push_back(double(value));
  return table;
}

inline Table table(const Tensor& x) {
  switch (x.dtype()) {
    case DType::f64:
      return table_of<double>(x);
    case DType::f32:
      return table_of<float>(x);
    case DType::bf16:
      return table_of<Bf16>(x);
    case DType::i64:
      return table_of<std::int64_t>(x);
    case DType::i32:
      return table_of<std::int32_t>(x);
    default:
      return table_of<std::uint8_t>(x);
  }
}

inline void put(const Tensor& x, std::int64_t r, std::int64_t c, double value) {
  const std::int64_t at = r * x.pitch() + c;
  switch (x.dtype()) {
    case DType::f64:
      x.data<double>()[at] = value;
      break;
    case DType::f32:
      x.data<float>()[at] = float(value);
      break;
    case DType::bf16:
      x.data<Bf16>()[at] = Bf16(float(value));
      break;
    case DType::i64:
      x.data<std::int64_t>()[at] = std::int64_t(value);
      break;
    case DType::i32:
      x.data<std::int32_t>()[at] = std::int32_t(value);
      break;
    default:
      x.data<std::uint8_t>()[at] = std::uint8_t(value);
      break;
  }
}

// One worker pool on one instruction set, and numbers that do not depend on either.
struct Machine {
  explicit Machine(DType activations, int workers = 1, Isa isa = usable_isas().back())
      : type(activations), device(std::make_unique<CpuBackend>(workers, -1, isa)) {}

  Backend& backend() const { return device.backend(); }
  DType sums() const { return accumulation(type); }

  // Not initialised. Two-dim ones are a view of a wider tensor.
  Tensor empty(Shape shape, DType of) {
    if (shape.dims() != 2) return Tensor::empty(shape, of, device);
    const Tensor wide = Tensor::empty({shape[0], shape[1] + 5}, of, device);
    backend().fill(wide, 1);
    return wide.columns(2, 2 + shape[1]);
  }
  // In [-2, 2).
  Tensor random(Shape shape, DType of, std::uint32_t stream) {
    Tensor x = empty(shape, of);
    std::mt19937_64 engine(stream);
    for (std::int64_t r = 0; r < x.rows(); ++r)
      for (std::int64_t c = 0; c < x.columns(); ++c)
        put(x, r, c, double(std::int64_t(engine())) * 0x1p-62);
    return x;
  }
  Tensor integers(Shape shape, std::int64_t below, std::uint32_t stream, DType of = DType::i32) {
    Tensor x = Tensor::empty(shape, of, device);
    std::mt19937_64 engine(stream);
    for (std::int64_t i = 0; i < x.size(); ++i)
      put(x, 0, i, double(engine() % std::uint64_t(below)));
    return x;
  }
  Tensor bytes(std::size_t size) { return Tensor::empty({std::int64_t(size)}, DType::u8, device); }

  DType type;
  mutable Device device;
};

// Rounding of `type`, and of a few sums in it.
inline double tolerance(DType type) {
  return type == DType::f64 ? 1e-13 : type == DType::f32 ? 4e-6 : 6e-3;
}

inline void expect_close(const Tensor& found, const Table& want, double error) {
  const Table got = table(found);
  ASSERT_EQ(got.values.size(), want.values.size());
  for (std::size_t i = 0; i < got.values.size(); ++i)
    ASSERT_NEAR(got.values[i], want.values[i], error * std::max(1.0, std::abs(want.values[i])))
        << "element " << i;
}
inline void expect_close(const Tensor& found, const Table& want) {
  expect_close(found, want, tolerance(found.dtype()));
}

// body(machine) on each instruction set that this processor has, in each floating type.
template <class Body>
void on_each_machine(Body body) {
  for (Isa isa : usable_isas())
    for (DType type : {DType::f64, DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::string(name(isa)) + " " + name(type));
      Machine machine(type, 2, isa);
      body(machine);
      if (testing::Test::HasFatalFailure()) return;
    }
}

// The bytes that body(machine) leaves in the tensors it returns are the same for any number of
// workers.
template <class Body>
void expect_same_for_any_workers(Body body) {
  for (DType type : {DType::f64, DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(type));
    Machine alone(type, 1);
    const std::vector<Tensor> want = body(alone);
    for (int workers : {2, 3}) {
      Machine machine(type, workers);
      const std::vector<Tensor> found = body(machine);
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_EQ(table(found[i]).values, table(want[i]).values)
            << "output " << i << ", " << workers << " workers";
    }
  }
}

}  // namespace pf::test
