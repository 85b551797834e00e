// Small tensors for tests, and the errors that tests expect.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/error.h"
#include "core/philox.h"
#include "core/tensor.h"

namespace pf {

// A tensor of these elements, row by row.
template <class T>
Tensor tensor_of(const std::vector<T>& values, const Shape& shape, Device& device,
                 const Label& label = {}) {
  const Tensor x = Tensor::empty(shape, dtype_of<T>(), device, label);
  EXPECT_EQ(std::int64_t(values.size()), shape.size());
  if (!x.is_meta() && !values.empty())
    std::memcpy(x.raw(), values.data(), values.size() * sizeof(T));
  return x;
}

inline Tensor ids_of(const std::vector<std::int32_t>& values, Device& device) {
  return tensor_of(values, {std::int64_t(values.size())}, device);
}

// Uniform in (-1, 1), another number for each element and each seed.
inline Tensor random_tensor(const Shape& shape, DType type, Device& device, std::uint64_t seed,
                            const Label& label = {}) {
  const Random random{seed, 1, 0};
  std::vector<double> values;
  for (std::int64_t i = 0; i < shape.size(); ++i)
    values.push_back(2 * random.uniform(std::uint64_t(i)) - 1);
  const Tensor exact = tensor_of(values, shape, device, label);
  if (type == DType::f64) return exact;
  const Tensor x = Tensor::empty(shape, type, device, label);
  backend(x).copy(x, exact);
  return x;
}

// The elements of a tensor of any floating type.
inline std::vector<double> elements(const Tensor& x) {
  const Tensor wide = Tensor::empty(x.shape(), DType::f64, x.device());
  backend(x).copy(wide, x);
  return wide.to_vector<double>();
}

// Expects an Error whose message has all of `parts`.
inline void expect_error(const std::function<void()>& body,
                         std::initializer_list<const char*> parts) {
  try {
    body();
  } catch (const Error& error) {
    for (const char* part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "no '" << part << "' in: " << error.what();
    return;
  }
  ADD_FAILURE() << "no Error; wanted one with '" << *parts.begin() << "'";
}

}  // namespace pf
