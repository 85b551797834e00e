#include "launch/config_words.h"

#include <algorithm>

namespace pf {

std::string text_of(std::int64_t value) {
  return std::to_string(value);
}

std::string either(std::int64_t below, std::int64_t above) {
  if (below < 1) return text_of(above);
  return text_of(below) + " or " + text_of(above);
}

std::string nearest_multiples(std::int64_t of, std::int64_t value) {
  return either(value / of * of, (value / of + 1) * of);
}

std::string nearest_divisors(std::int64_t of, std::int64_t value) {
  std::int64_t below = 1, above = of;
  for (std::int64_t small = 1; small <= of / small; ++small) {
    if (of % small != 0) continue;
    for (const std::int64_t divisor : {small, of / small}) {
      if (divisor < value) below = std::max(below, divisor);
      if (divisor > value) above = std::min(above, divisor);
    }
  }
  return value > of ? text_of(of) : either(below, above);
}

std::string nearest_legal(std::int64_t value, std::int64_t most,
                          const std::function<bool(std::int64_t)>& is_legal, std::int64_t unit) {
  std::int64_t below = std::min(value - 1, most), above = value + 1;
  while (below > 0 && !is_legal(below)) --below;
  while (above <= most && !is_legal(above)) ++above;
  if (above <= most) return either(below * unit, above * unit);
  return below > 0 ? text_of(below * unit) : "";
}

void check_multiple(const Places& places, const std::string& key, std::int64_t value,
                    std::int64_t of, const std::string& rule) {
  if (value % of == 0) return;
  places.fail(key, "found " + text_of(value) + ", wanted a multiple of " + rule +
                       "; nearest: " + nearest_multiples(of, value));
}

void check_divisor(const Places& places, const std::string& key, std::int64_t value,
                   std::int64_t of, const std::string& rule) {
  if (of % value == 0) return;
  places.fail(key, "found " + text_of(value) + ", wanted a divisor of " + rule +
                       "; nearest: " + nearest_divisors(of, value));
}

}  // namespace pf
