// What random cases vary: factors with levels, of which a case has one each.
#pragma once

#include <string>
#include <vector>

#include "core/philox.h"
#include "launch/config.h"

namespace pf {

// Sizes of the axes; edp follows.
struct AxisSizes {
  int tp = 1, cp = 1, dp = 1, etp = 1, ep = 1;

  int ranks() const { return tp * cp * dp; }
};

// Independent draws.
class Dice {
 public:
  explicit Dice(Random random) : random_(random) {}
  std::int64_t below(std::int64_t count);
  template <class T>
  const T& one_of(const std::vector<T>& all) {
    return all[std::size_t(below(std::int64_t(all.size())))];
  }

 private:
  Random random_;
  std::uint64_t drawn_ = 0;
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

// The axes tp, cp, dp, etp and ep come first; their levels are sizes.
constexpr std::size_t axis_factors = 5;
const std::vector<Factor>& factors();
// Those of up to 8 ranks with two axes above 1, as levels of the first factors.
const std::vector<std::vector<std::size_t>>& axis_choices();
AxisSizes axes_of(const std::vector<std::size_t>& choice);

// Whether level i of factor f means something beside level j of factor g.
bool go_together(std::size_t f, std::size_t i, std::size_t g, std::size_t j);

}  // namespace pf
