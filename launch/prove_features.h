// What random cases vary: factors with levels, of which a case has one each.
#pragma once

#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/dice.h"

namespace pf {

// Sizes of the axes; edp follows.
struct AxisSizes {
  int tp = 1, cp = 1, dp = 1, etp = 1, ep = 1, pp = 1;

  int of_stage() const { return tp * cp * dp; }  // ranks
  int ranks() const { return of_stage() * pp; }
};

// A case in the making. Factors are applied in order; those of the model's parts find the sizes
// that they depend on.
struct Draft {
  config::Config config;
  AxisSizes axes;
  Dice& dice;

  config::Model& model() { return *config.mutable_model(); }
  config::Moe& moe() { return *config.mutable_model()->mutable_moe(); }
};

struct Level {
  std::string name;
  void (*set)(Draft&) = nullptr;  // none: nothing changes
};

struct Factor {
  std::string name;
  std::vector<Level> levels;  // the first goes with any level of any other factor but axes
};

// The axes tp, cp, dp, etp, ep and pp come first; their levels are sizes.
constexpr std::size_t axis_factors = 6;
const std::vector<Factor>& factors();
// Those of up to 8 ranks a stage with two axes above 1, as levels of the first factors.
const std::vector<std::vector<std::size_t>>& axis_choices();
AxisSizes axes_of(const std::vector<std::size_t>& choice);

// Whether level i of factor f means something beside level j of factor g.
bool go_together(std::size_t f, std::size_t i, std::size_t g, std::size_t j);

}  // namespace pf
