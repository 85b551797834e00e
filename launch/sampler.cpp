#include "launch/sampler.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "core/philox.h"

namespace pf {
namespace {

constexpr int block_bits = 8;
// Streams of random numbers: this one orders blocks, the next ones a source each.
constexpr std::uint32_t first_stream = 0xDA7A0000;
constexpr std::size_t most_sources = 0xFFFF;
constexpr double smallest_share = 0x1p-40;

// Element x of permutation number `turn` of 0 .. count - 1.
std::uint64_t permuted(std::uint64_t x, std::uint64_t count, std::uint64_t seed,
                       std::uint32_t stream, std::uint64_t turn) {
  assert(x < count && turn >> 60 == 0);
  const Random random{seed, stream, static_cast<std::uint32_t>(turn)};
  const int half = std::max(1, (static_cast<int>(std::bit_width(count - 1)) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = x >> half;
    std::uint64_t right = x & mask;
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t mixed = random.words(right | round << 32 | turn >> 32 << 36)[0];
      const std::uint64_t next = left ^ (mixed & mask);
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= count);
  return x;
}

std::uint64_t reversed(std::uint64_t x) {
  x = (x >> 1 & 0x5555555555555555) | (x & 0x5555555555555555) << 1;
  x = (x >> 2 & 0x3333333333333333) | (x & 0x3333333333333333) << 2;
  x = (x >> 4 & 0x0F0F0F0F0F0F0F0F) | (x & 0x0F0F0F0F0F0F0F0F) << 4;
  return __builtin_bswap64(x);
}

// #{j < n : reversed(j) < limit}. The numbers below n are one block of 2^b for each bit b of n:
// those with n's higher bits, a 0 at b, and anything below. Their reverses are
// offset + q 2^(64-b) for 0 <= q < 2^b, where offset < 2^(64-b) is the reverse of the first.
std::uint64_t count_below(std::uint64_t n, std::uint64_t limit) {
  std::uint64_t count = 0;
  for (std::uint64_t rest = n; rest != 0; rest &= rest - 1) {
    const int b = std::countr_zero(rest);
    const std::uint64_t offset = reversed(rest & (rest - 1));
    if (limit > offset) count += (b == 0 ? 0 : (limit - offset - 1) >> (64 - b)) + 1;
  }
  return count;
}

}  // namespace

Sampler::Sampler(const std::vector<BlendSource>& sources, std::uint64_t seed) : seed_(seed) {
  require(!sources.empty(), "data.sources: there is none; one or more are wanted");
  require(sources.size() <= most_sources, "data.sources: there are ", sources.size(), "; at most ",
          most_sources, " are possible");
  double total = 0;
  for (const BlendSource& source : sources) {
    require(source.windows > 0, "data.sources: ", source.name, " has no windows");
    require(source.weight > 0 && std::isfinite(source.weight), "data.sources: ", source.name,
            " has weight ", source.weight, "; a positive number is wanted");
    total += source.weight;
  }
  double before = 0;
  for (const BlendSource& source : sources) {
    require(source.weight >= total * smallest_share, "data.sources: ", source.name, " has weight ",
            source.weight, " of ", total, "; at least 2^-40 of the sum is wanted");
    starts_.push_back(static_cast<std::uint64_t>(std::ldexp(before / total, 64)));
    windows_.push_back(source.windows);
    before += source.weight;
  }
}

Sample Sampler::operator()(std::uint64_t number) const {
  const std::uint64_t block = number >> block_bits;
  const std::uint64_t size = std::uint64_t{1} << block_bits;
  const std::uint64_t n =
      block << block_bits | permuted(number % size, size, seed_, first_stream, block);
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), reversed(n));
  const auto source = static_cast<std::size_t>(after - starts_.begin() - 1);
  const std::uint64_t upto = after == starts_.end() ? n : count_below(n, *after);
  const std::uint64_t visit = upto - count_below(n, starts_[source]);

  const std::uint64_t windows = windows_[source];
  const std::uint64_t epoch = visit / windows;
  const auto stream = static_cast<std::uint32_t>(first_stream + 1 + source);
  return {.source = static_cast<std::uint32_t>(source),
          .epoch = epoch,
          .window = permuted(visit % windows, windows, seed_, stream, epoch)};
}

}  // namespace pf
