// Counter-based random numbers: the same element draws the same number whatever rank, tile or run
// asks for it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace pf {

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {std::uint32_t(b >> 32) ^ counter[1] ^ key[0], std::uint32_t(b),
               std::uint32_t(a >> 32) ^ counter[3] ^ key[1], std::uint32_t(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// One stream of random numbers: (seed, stream id, step); elements are asked for by global index.
struct Random {
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;
  std::uint32_t step = 0;

  // Four words for each index.
  std::array<std::uint32_t, 4> words(std::uint64_t index) const {
    return philox({std::uint32_t(index), std::uint32_t(index >> 32), stream, step},
                  {std::uint32_t(seed), std::uint32_t(seed >> 32)});
  }
  // In (0, 1), 53 bits.
  double uniform(std::uint64_t index) const {
    const auto w = words(index);
    const std::uint64_t bits = (std::uint64_t{w[0]} << 32 | w[1]) >> 11;
    return (double(bits) + 0.5) * 0x1p-53;
  }
  // Standard normal, by Box and Muller (1958).
  double normal(std::uint64_t index) const {
    const auto w = words(index);
    const double u = (double(std::uint64_t{w[0]} << 21 ^ w[1] >> 11) + 0.5) * 0x1p-53;
    const double v = (double(std::uint64_t{w[2]} << 21 ^ w[3] >> 11) + 0.5) * 0x1p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }
};

}  // namespace pf
