// Gradients of a whole model against finite differences, in f64.
#pragma once

#include <gtest/gtest.h>

#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {

// f(x) by central differences of fourth order, along one element of a weight.
inline double slope(SmallModel& model, const Samples& samples, Parameter& w, std::size_t element) {
  constexpr double h = 2e-4;
  double& x = w.value().data<double>()[element];
  const double here = x;
  const auto at = [&](double there) {
    x = here + there;
    w.changed();
    return model.step(samples).sum();
  };
  const double near = at(h) - at(-h), far = at(2 * h) - at(-2 * h);
  x = here;
  w.changed();
  return (8 * near - far) / (12 * h);
}

// The largest, the first, the last and one in between: experts that no token sees have zeros.
inline std::vector<std::size_t> some_elements(const Numbers& gradient) {
  const auto largest = std::ranges::max_element(
      gradient, [](double a, double b) { return std::abs(a) < std::abs(b); });
  return {std::size_t(largest - gradient.begin()), 0, gradient.size() - 1, gradient.size() * 2 / 5};
}

// Choices, and so the shares of the balance losses, are constants near a point: the sum of all
// losses is smooth there, and its slopes are the gradients.
inline void expect_slopes(std::int64_t length, const Recipe& recipe) {
  const Samples samples = uneven_samples(4, length, recipe.model.vocabulary());
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    const StepOutcome all = model.step(samples);
    double largest = 0;
    for (const auto& [name, gradient] : all.gradients)
      for (const double x : gradient) largest = std::max(largest, std::abs(x));
    for (const auto& [name, gradient] : all.gradients) {
      for (const std::size_t element : some_elements(gradient)) {
        const double want = slope(model, samples, model.parameter(name), element);
        const double scale = std::max(std::abs(want), 1e-3 * largest);
        EXPECT_NEAR(gradient[element], want, 1e-6 * scale) << name << ' ' << element;
      }
    }
  });
}

}  // namespace pf
