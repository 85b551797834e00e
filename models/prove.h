// Proof that a layout computes what one rank computes.
#pragma once

#include <functional>

#include "models/trial.h"

namespace pf {

// What some steps of gradient descent give, the same on every rank.
struct Descent {
  std::vector<StepOutcome> steps;
  std::map<std::string, Numbers> weights;  // whole, after the last step
};

// Runs body on the thread ranks of a layout, each with a CPU of its own.
void on_thread_ranks(const Layout& layout, const std::function<void(const Mesh&)>& body);

// A step of a descent, with number `step` from 0 on.
StepOutcome descend(SmallModel& model, const Samples& samples, int step);
// On thread ranks.
Descent descend(const Recipe& recipe, const Samples& samples, const Layout& layout, int steps = 3);

// max |a - b| over the largest of a's elements, or over 1e-3 of `scale` where that is more: some
// gradients are zero in exact arithmetic (docs/design.md, section 6). Infinite where sizes differ
// or a number is none.
double distance(const Numbers& a, const Numbers& b, double scale);

// The largest of all distances, and what it is of: "gradient of layers.0.attention.q, step 2".
struct Difference {
  double distance = 0;
  std::string where;

  void add(double other, const std::string& of);
};
// Of whole tensors by name.
Difference difference(const std::map<std::string, Numbers>& a,
                      const std::map<std::string, Numbers>& b);
// Of the losses, the norm, the experts' counts and each gradient; and after training of each
// weight.
Difference difference(const StepOutcome& a, const StepOutcome& b);
Difference difference(const Descent& a, const Descent& b);

// What two layouts may differ by in f64: any order of the same sums.
constexpr double proof_bound = 1e-10;

}  // namespace pf
