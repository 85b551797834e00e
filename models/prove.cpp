#include "models/prove.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace pf {
namespace {

// Of gradients that are clipped to a norm of 1. Small, since a descent multiplies rounding: three
// steps of 0.1 can make 1e-10 of 1e-13.
constexpr double lr = 0.02;

using ByName = std::map<std::string, Numbers>;

double largest(const ByName& tensors) {
  double most = 0;
  for (const auto& [name, x] : tensors)
    for (const double element : x) most = std::max(most, std::abs(element));
  return most;
}

void add(Difference& worst, const Difference& tensors, const std::string& of) {
  if (!tensors.where.empty()) worst.add(tensors.distance, of + tensors.where);
}

}  // namespace

void on_thread_ranks(const Layout& layout, const std::function<void(const Mesh&)>& body) {
  run_thread_ranks(layout.ranks(), [&](Communicator& communicator) {
    Device device(make_cpu_backend(1));
    std::vector<int> ranks(std::size_t(layout.ranks()));
    std::iota(ranks.begin(), ranks.end(), 0);
    body(Mesh(communicator, device, layout, ranks));
  });
}

StepOutcome descend(SmallModel& model, const Samples& samples, int step) {
  StepOutcome outcome = model.step(samples, step);
  model.descend(lr / std::max(1.0, outcome.norm));
  model.transformer().update_biases(outcome.expert_counts);
  return outcome;
}

Descent descend(const Recipe& recipe, const Samples& samples, const Layout& layout, int steps) {
  Descent out;
  on_thread_ranks(layout, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, samples.length);
    std::vector<StepOutcome> outcomes;
    for (int step = 0; step < steps; ++step) {
      outcomes.push_back(descend(model, samples, step));
      if (mesh.rank() != 0) outcomes.clear();
    }
    auto weights = model.weights();
    if (mesh.rank() == 0) out = {std::move(outcomes), std::move(weights)};
  });
  return out;
}

double distance(const Numbers& a, const Numbers& b, double scale) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 1e-3 * scale, apart = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(a[i]));
    apart = std::max(apart, difference);
  }
  return apart == 0 ? 0 : apart / largest;
}

void Difference::add(double other, const std::string& of) {
  if (!where.empty() && other <= distance) return;
  distance = other;
  where = of;
}

Difference difference(const ByName& a, const ByName& b) {
  const double scale = largest(a);
  Difference worst;
  for (const auto& [name, x] : a) {
    const auto found = b.find(name);
    worst.add(distance(x, found == b.end() ? Numbers() : found->second, scale), name);
  }
  for (const auto& [name, x] : b)
    if (!a.contains(name)) worst.add(std::numeric_limits<double>::infinity(), name);
  return worst;
}

Difference difference(const StepOutcome& a, const StepOutcome& b) {
  Difference worst;
  worst.add(distance({a.loss}, {b.loss}, 1), "loss");
  worst.add(distance({a.balance_loss}, {b.balance_loss}, 1), "balance loss");
  worst.add(distance({a.z_loss}, {b.z_loss}, 1), "z loss");
  worst.add(distance({a.norm}, {b.norm}, 1), "gradient norm");
  if (a.expert_counts != b.expert_counts)
    worst.add(std::numeric_limits<double>::infinity(), "experts' counts");
  add(worst, difference(a.gradients, b.gradients), "gradient of ");
  return worst;
}

Difference difference(const Descent& a, const Descent& b) {
  Difference worst;
  for (std::size_t i = 0; i < std::max(a.steps.size(), b.steps.size()); ++i) {
    const std::string step = ", step " + std::to_string(i + 1);
    if (i >= std::min(a.steps.size(), b.steps.size())) {
      worst.add(std::numeric_limits<double>::infinity(), "number of steps");
      break;
    }
    const Difference of_step = difference(a.steps[i], b.steps[i]);
    worst.add(of_step.distance, of_step.where + step);
  }
  add(worst, difference(a.weights, b.weights), "weights ");
  return worst;
}

}  // namespace pf
