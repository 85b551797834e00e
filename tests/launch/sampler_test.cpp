#include "launch/sampler.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace pf {
namespace {

std::vector<BlendSource> blend(const std::vector<double>& weights, std::uint64_t windows = 1000) {
  std::vector<BlendSource> sources;
  for (const double weight : weights) {
    sources.push_back({"source " + std::to_string(sources.size()), windows, weight});
  }
  return sources;
}

std::vector<std::uint64_t> counts(const Sampler& sampler, std::size_t sources, std::uint64_t begin,
                                  std::uint64_t end) {
  std::vector<std::uint64_t> counts(sources);
  for (std::uint64_t n = begin; n < end; ++n) ++counts[sampler(n).source];
  return counts;
}

TEST(Sampler, IsAFunctionOfSeedAndNumberAlone) {
  const auto sources = blend({3, 1, 2});
  const Sampler first(sources, 7);
  const Sampler second(sources, 7);
  for (std::uint64_t n = 5000; n-- > 0;) ASSERT_EQ(first(n), second(n));
}

TEST(Sampler, AnotherSeedIsAnotherOrder) {
  const auto sources = blend({3, 1, 2});
  const Sampler first(sources, 7);
  for (const std::uint64_t seed : {8ull, 7ull + (1ull << 32)}) {
    const Sampler second(sources, seed);
    int equal = 0;
    for (std::uint64_t n = 0; n < 5000; ++n) equal += first(n) == second(n) ? 1 : 0;
    EXPECT_LT(equal, 50);
  }
}

TEST(Sampler, TheOrderIsTheSameOnEveryMachineAndInEveryVersion) {
  const Sampler sampler(blend({0.5, 0.3, 0.2}, 12345), 1);
  EXPECT_EQ(sampler(0), (Sample{0, 0, 981}));
  EXPECT_EQ(sampler(1), (Sample{1, 0, 4707}));
  EXPECT_EQ(sampler(1'000'000'007), (Sample{1, 24301, 6986}));
}

TEST(Sampler, ShowsEachWindowOnceInEachEpoch) {
  for (const std::uint64_t windows : {1, 2, 3, 5, 64, 1000, 4097}) {
    const Sampler sampler(blend({1}, windows), 3);
    std::map<std::uint64_t, std::set<std::uint64_t>> seen;
    // The numbers of a block of 256 come in any order, so that its last may belong to epoch 2.
    for (std::uint64_t n = 0; n < 3 * windows + 256; ++n) {
      const Sample sample = sampler(n);
      EXPECT_LT(sample.window, windows);
      EXPECT_TRUE(seen[sample.epoch].insert(sample.window).second);
    }
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) EXPECT_EQ(seen[epoch].size(), windows);
  }
}

TEST(Sampler, ABlendShowsEachWindowOnceInEachEpochOfItsSource) {
  std::vector<BlendSource> sources{{"a", 700, 5}, {"b", 31, 1}, {"c", 64, 0.01}};
  const Sampler sampler(sources, 3);
  std::map<std::uint32_t, std::map<std::uint64_t, std::set<std::uint64_t>>> seen;
  for (std::uint64_t n = 0; n < 256 * 256; ++n) {
    const Sample sample = sampler(n);
    EXPECT_TRUE(seen[sample.source][sample.epoch].insert(sample.window).second);
  }
  for (const auto& [source, epochs] : seen) {
    for (const auto& [epoch, windows] : epochs) {
      const bool is_complete = epoch + 1 < epochs.size();
      EXPECT_TRUE(!is_complete || windows.size() == sources[source].windows);
    }
  }
  EXPECT_GT(seen[0].size(), 70u);
  EXPECT_EQ(seen[2].size(), 2u);
}

TEST(Sampler, EpochsHaveDifferentOrdersAndSoHaveSources) {
  const Sampler sampler(blend({1, 1}, 512), 3);
  std::vector<std::vector<std::uint64_t>> orders(4, std::vector<std::uint64_t>());
  for (std::uint64_t n = 0; n < 2048; ++n) {
    const Sample sample = sampler(n);
    orders.at(sample.source * 2 + sample.epoch).push_back(sample.window);
  }
  for (std::size_t a = 0; a < 4; ++a) {
    ASSERT_EQ(orders[a].size(), 512u);
    for (std::size_t b = 0; b < a; ++b) {
      int equal = 0;
      for (std::size_t i = 0; i < 512; ++i) equal += orders[a][i] == orders[b][i] ? 1 : 0;
      EXPECT_LT(equal, 12);  // one is expected of two random permutations
    }
  }
}

TEST(Sampler, NeighboursInOrderAreNoNeighboursInTheText) {
  const std::uint64_t windows = 10000;
  const Sampler sampler(blend({1}, windows), 5);
  double steps = 0;
  for (std::uint64_t n = 0; n + 1 < windows; ++n) {
    steps += std::abs(double(sampler(n).window) - double(sampler(n + 1).window));
  }
  // A third of the range for independent windows; the mean of 10,000 has a deviation of 0.7%.
  EXPECT_NEAR(steps / double(windows) / double(windows), 1.0 / 3, 0.02);
}

TEST(Sampler, EveryAlignedBlockHasEachSourcesShareRoundedUpOrDown) {
  const std::vector<double> weights{0.5, 0.3, 0.15, 0.04999, 0.00001};
  double total = 0;
  for (const double weight : weights) total += weight;
  const Sampler sampler(blend(weights), 11);
  for (const std::uint64_t size : {256, 1024, 65536}) {
    for (const std::uint64_t block : {0, 1, 2, 77}) {
      const auto found = counts(sampler, weights.size(), block * size, (block + 1) * size);
      for (std::size_t s = 0; s < weights.size(); ++s) {
        const double want = double(size) * weights[s] / total;
        EXPECT_GE(double(found[s]), std::floor(want - 1e-9));
        EXPECT_LE(double(found[s]), std::ceil(want + 1e-9));
      }
    }
  }
}

TEST(Sampler, EqualSourcesAreShownEquallyInEveryBlock) {
  const Sampler sampler(blend({2, 2, 2, 2}), 11);
  for (std::uint64_t block = 0; block < 50; ++block) {
    const auto found = counts(sampler, 4, block * 256, (block + 1) * 256);
    EXPECT_EQ(found, std::vector<std::uint64_t>(4, 64));
  }
}

TEST(Sampler, NoPlaceInABatchBelongsToOneSource) {
  const Sampler sampler(blend({1, 1, 1, 1}), 11);
  for (std::uint64_t place = 0; place < 16; ++place) {
    std::vector<int> found(4);
    for (std::uint64_t step = 0; step < 1000; ++step) ++found[sampler(step * 16 + place).source];
    for (const int count : found) EXPECT_NEAR(count, 250, 5 * std::sqrt(1000 * 0.25 * 0.75));
  }
}

TEST(Sampler, AHundredSourcesKeepTheirShares) {
  std::vector<double> weights;
  double total = 0;
  for (int s = 0; s < 100; ++s) {
    weights.push_back(1.0 / (1 + s));
    total += weights.back();
  }
  const Sampler sampler(blend(weights, 37), 2);
  const std::uint64_t size = 1 << 17;
  const auto found = counts(sampler, 100, 0, size);
  for (std::size_t s = 0; s < 100; ++s) {
    EXPECT_NEAR(double(found[s]), double(size) * weights[s] / total, 1 + 1e-6);
  }
}

TEST(Sampler, LateSamplesAreFoundAtOnceAndConsistent) {
  const std::vector<BlendSource> sources{{"a", 1'000'000'000'000, 0.75}, {"b", 1000, 0.25}};
  const Sampler sampler(sources, 4);
  const auto start = std::chrono::steady_clock::now();
  const std::uint64_t billion = 1'000'000'000;
  std::set<std::uint64_t> windows;
  std::uint64_t of_b = 0;
  for (std::uint64_t n = billion / 256 * 256; n < billion / 256 * 256 + 1024; ++n) {
    const Sample sample = sampler(n);
    if (sample.source == 0) {
      EXPECT_EQ(sample.epoch, 0u);
      EXPECT_TRUE(windows.insert(sample.window).second);
    } else {
      of_b += 1;
      EXPECT_NEAR(double(sample.epoch), billion / 4 / 1000, 1);
    }
  }
  EXPECT_EQ(of_b, 256u);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(took.count(), 0.5);  // about 2 ms; a table of a billion entries would take seconds
}

TEST(Sampler, NumbersUpTo64BitsWork) {
  const Sampler sampler(blend({1, 3}, 1'000'000), 4);
  const std::uint64_t last = std::numeric_limits<std::uint64_t>::max();
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
  for (std::uint64_t n = last - 255; n != 0; ++n) {
    const Sample sample = sampler(n);
    EXPECT_LT(sample.window, 1'000'000u);
    EXPECT_TRUE(seen.insert({sample.source, sample.window}).second);
  }
}

TEST(Sampler, SourcesThatCantBeDrawnFromAreNamed) {
  EXPECT_THROW(Sampler({}, 1), Error);
  const double inf = std::numeric_limits<double>::infinity();
  for (const BlendSource& wrong : std::vector<BlendSource>{{"wrong", 0, 1},
                                                           {"wrong", 5, 0},
                                                           {"wrong", 5, -1},
                                                           {"wrong", 5, inf},
                                                           {"wrong", 5, std::nan("")},
                                                           {"wrong", 5, 1e-20}}) {
    try {
      const Sampler sampler({{"right", 5, 1}, wrong}, 1);
      ADD_FAILURE() << wrong.windows << " " << wrong.weight;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("wrong"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace pf
