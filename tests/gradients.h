// Gradients of ops against central finite differences, in f64.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/parameter.h"
#include "core/tape.h"
#include "tests/tensors.h"

namespace pf {

using Function = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

// Tests differentiate a linear functional of an op's outputs, with random coefficients: those of
// output i, which are also its gradient.
inline Tensor coefficients(const Tensor& y, std::size_t i) {
  return random_tensor(y.shape(), DType::f64, y.device(), 900 + i, gradient_of(y.label()));
}

inline double functional(const std::vector<Tensor>& ys) {
  double sum = 0;
  for (std::size_t i = 0; i < ys.size(); ++i) {
    const auto y = ys[i].to_vector<double>(), of_y = coefficients(ys[i], i).to_vector<double>();
    for (std::size_t j = 0; j < y.size(); ++j) sum += of_y[j] * y[j];
  }
  return sum;
}

// The gradients of the functional for `inputs` and for `weights`, in this order, by the tape. Their
// labels must be the duals of what they are gradients of.
inline std::vector<std::vector<double>> tape_gradients(const Function& f,
                                                       const std::vector<Tensor>& inputs,
                                                       const std::vector<Parameter*>& weights) {
  Tape tape;
  std::vector<Tensor> watched, ys, dys;
  for (const Tensor& x : inputs) watched.push_back(tape.watch(x));
  for (Parameter* w : weights) w->clear_gradient();
  {
    const Tape::Recording on(&tape);
    ys = f(watched);
  }
  for (std::size_t i = 0; i < ys.size(); ++i) dys.push_back(coefficients(ys[i], i));
  tape.backward(ys, dys);
  std::vector<std::vector<double>> gradients;
  for (const Tensor& x : watched) {
    const Tensor dx = tape.gradient(x);
    EXPECT_EQ(dx.label().on, gradient_of(x.label()).on) << dx.text() << " for " << x.text();
    gradients.push_back(dx.to_vector<double>());
  }
  for (Parameter* w : weights) {
    EXPECT_TRUE(w->has_gradient()) << w->name();
    EXPECT_EQ(w->gradient().label(), gradient_of(w->label())) << w->name();
    gradients.push_back(w->gradient().to_vector<double>());
  }
  return gradients;
}

// The derivative of loss() for each of `size` values that it reads, which vary by +-step: the error
// is step^2 f''' / 6 and the rounding 1e-16 f / step, both near 1e-10 here.
inline std::vector<double> differences(double* values, std::size_t size,
                                       const std::function<double()>& loss) {
  constexpr double step = 1e-5;
  std::vector<double> out;
  for (std::size_t i = 0; i < size; ++i) {
    const double value = std::exchange(values[i], values[i] + step);
    const double above = loss();
    values[i] = value - step;
    const double below = loss();
    values[i] = value;
    out.push_back((above - below) / (2 * step));
  }
  return out;
}

// The largest difference, as a share of the largest wanted element.
inline double distance(const std::vector<double>& found, const std::vector<double>& wanted) {
  EXPECT_EQ(found.size(), wanted.size());
  double most = 0, largest = 0;
  for (std::size_t i = 0; i < std::min(found.size(), wanted.size()); ++i) {
    most = std::max(most, std::abs(found[i] - wanted[i]));
    largest = std::max(largest, std::abs(wanted[i]));
  }
  return std::isfinite(most) ? most / std::max(largest, 1e-3) : most;
}

// Compares all gradients of f, for inputs [contiguous f64] and weights, with finite differences.
// f must give outputs that all have gradients.
inline void expect_gradients(const Function& f, const std::vector<Tensor>& inputs,
                             const std::vector<Parameter*>& weights = {}) {
  const auto found = tape_gradients(f, inputs, weights);
  const auto loss = [&] {
    for (Parameter* w : weights) w->changed();
    return functional(f(inputs));
  };
  for (std::size_t i = 0; i < found.size(); ++i) {
    const bool is_input = i < inputs.size();
    const Tensor& x = is_input ? inputs[i] : weights[i - inputs.size()]->value();
    const auto wanted = differences(x.data<double>(), std::size_t(x.size()), loss);
    EXPECT_LE(distance(found[i], wanted), 1e-7)
        << (is_input ? "input " + std::to_string(i) : weights[i - inputs.size()]->name());
    const bool is_zero = std::ranges::all_of(wanted, [](double d) { return d == 0; });
    EXPECT_FALSE(is_zero && x.size() > 0) << "a gradient of zeros proves nothing";
  }
}

// A weight, of which this rank has `shape`, with random values.
inline std::unique_ptr<Parameter> make_weight(const std::string& name, const Shape& shape,
                                              Device& device, const Label& label = {},
                                              DType type = DType::f64) {
  auto w = std::make_unique<Parameter>(name, shape, Block{{}, shape}, label, Init::normal, 0.6);
  std::uint32_t stream = 0;
  for (const char c : name) stream = stream * 31 + std::uint32_t(c);
  w->initialise(device, type, 5, stream);
  return w;
}

}  // namespace pf
