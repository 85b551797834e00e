// Draws for random cases.
#pragma once

#include <cstdint>
#include <vector>

#include "core/philox.h"

namespace pf {

// Independent draws.
class Dice {
 public:
  explicit Dice(Random random) : random_(random) {}
  std::int64_t below(std::int64_t count) {
    return std::int64_t(random_.words(drawn_++)[0] % std::uint64_t(count));
  }
  template <class T>
  const T& one_of(const std::vector<T>& all) {
    return all[std::size_t(below(std::int64_t(all.size())))];
  }

 private:
  Random random_;
  std::uint64_t drawn_ = 0;
};

}  // namespace pf
