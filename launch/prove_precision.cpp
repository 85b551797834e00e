#include "launch/prove_precision.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "launch/prove_case.h"
#include "launch/run_mesh.h"
#include "launch/terminal.h"

namespace pf {
namespace {

constexpr int steps = 10;

struct Apart {
  // Loss at first, after one step and after ten; gradient norm; share of choices.
  std::array<double, 5> numbers{};
  Difference gradient;
};

// Of all choices of experts, those that fell otherwise.
double moved_choices(const StepOutcome& a, const StepOutcome& b) {
  double moved = 0, all = 0;
  for (std::size_t l = 0; l < a.expert_counts.size(); ++l)
    for (std::size_t e = 0; e < a.expert_counts[l].size(); ++e) {
      moved += std::abs(a.expert_counts[l][e] - b.expert_counts[l][e]) / 2;
      all += a.expert_counts[l][e];
    }
  return all == 0 ? 0 : moved / all;
}

Apart apart(const Descent& a, const Descent& b) {
  const auto loss = [&](std::size_t step) {
    return distance({a.steps[step].loss}, {b.steps[step].loss}, 1);
  };
  const StepOutcome &first = a.steps[0], &other = b.steps[0];
  return {{loss(0), loss(1), loss(steps), distance({first.norm}, {other.norm}, 1),
           moved_choices(first, other)},
          difference(first.gradients, other.gradients)};
}

void print_row(const std::string& what, const Apart& row) {
  std::string text = fmt::format("| {} |", what);
  for (std::size_t i = 0; i < 4; ++i) text += fmt::format(" {:.1e} |", row.numbers[i]);
  text += row.gradient.where.empty()
              ? " - |"
              : fmt::format(" {:.1e} ({}) |", row.gradient.distance, row.gradient.where);
  print(text + fmt::format(" {:.2g}% |\n", 100 * row.numbers[4]));
}

}  // namespace

void measure_layouts(const config::Config& config, const LayoutsOfModel& layouts,
                     config::Run::Precision precision) {
  const DType type = type_of(precision);
  print("\n| layout | loss | loss after 1 step | loss after " + std::to_string(steps) +
        " steps | gradient norm | worst gradient | choices moved |\n"
        "|---|---|---|---|---|---|---|\n");
  const config::Config alone = on_one_rank(config);
  const Descent want = descend(alone, type, steps + 1);
  print_row("1 rank in f64", apart(want, descend(alone, DType::f64, steps + 1)));
  Apart worst;
  for (const config::Config& one : layouts.legal) {
    const Apart row = apart(want, descend(one, type, steps + 1));
    print_row(axes_text(one), row);
    for (std::size_t i = 0; i < worst.numbers.size(); ++i)
      worst.numbers[i] = std::max(worst.numbers[i], row.numbers[i]);
    if (!row.gradient.where.empty()) worst.gradient.add(row.gradient.distance, row.gradient.where);
  }
  print_row(fmt::format("worst of {} layouts", layouts.legal.size()), worst);
}

}  // namespace pf
