// The order of data: which window of which source is sample number n.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pf {

struct BlendSource {
  std::string name;
  std::uint64_t windows = 0;
  double weight = 1;  // its share of all samples is weight / sum of weights
};

struct Sample {
  std::uint32_t source = 0;  // index into the sources
  std::uint64_t epoch = 0;   // how often the source was seen as a whole before
  std::uint64_t window = 0;  // of the source

  bool operator==(const Sample&) const = default;
};

// A pure function of (sources, seed, number), in time O(log number + log sources); no state grows.
//   Blend: number n moves within its block of 256 by a random permutation, to n'. Its source is the
//   one whose interval [start, end) of [0, 2^64), as long as its share, has r(n'), n' with its 64
//   bits in reverse order (van der Corput 1935): any 2^m numbers from a multiple of 2^m >= 256 give
//   r one value in each interval of 2^(64-m), so a source gets its share of them, rounded up or
//   down. Visit: r(n') is a source's visit number k = #{j < n' : start <= r(j) < end}, counted
//   exactly in integers, one term for each bit of n' that is set. Window: visit k is in epoch e = k
//   / windows, and shows window number permutation_e(k mod windows): each window once in each
//   epoch. Permutations are six Feistel rounds of Philox(seed, source, e) over the next power of 4,
//   repeated while the result is out of range (Black and Rogaway 2002).
// Throws Error if there is no source, or one without windows, or whose weight is not positive and
// finite, or a share below 2^-40.
class Sampler {
 public:
  Sampler(const std::vector<BlendSource>& sources, std::uint64_t seed);

  Sample operator()(std::uint64_t number) const;

 private:
  std::vector<std::uint64_t> starts_;   // of the sources' intervals, ascending
  std::vector<std::uint64_t> windows_;  // of the sources
  std::uint64_t seed_;
};

}  // namespace pf
