#include "core/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <set>

namespace pf {
namespace {

using Words = std::array<std::uint32_t, 4>;

TEST(Philox, EqualsTheKnownAnswersOfRandom123) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t all = 0xffffffff;
  EXPECT_EQ(philox({all, all, all, all}, {all, all}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryPartOfAStreamsNameChangesItsNumbers) {
  const Random random{1, 2, 3};
  const std::uint64_t high = std::uint64_t{1} << 32;
  const std::set<double> numbers{random.uniform(4),
                                 random.uniform(5),
                                 random.uniform(4 + high),
                                 Random{2, 2, 3}.uniform(4),
                                 Random{1 + high, 2, 3}.uniform(4),
                                 Random{1, 3, 3}.uniform(4),
                                 Random{1, 2, 4}.uniform(4)};
  EXPECT_EQ(numbers.size(), 7u);
}

TEST(Philox, UniformNumbersAreInsideTheUnitIntervalWithItsMoments) {
  const Random random{7, 1, 0};
  const int count = 100'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform(std::uint64_t(i));
    ASSERT_GT(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  // Five standard deviations of the means of u and u^2.
  EXPECT_NEAR(sum / count, 1.0 / 2, 5 * std::sqrt(1.0 / 12 / count));
  EXPECT_NEAR(squares / count, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / count));
}

TEST(Philox, NormalNumbersHaveTheMomentsOfTheNormalDistribution) {
  const Random random{7, 1, 0};
  const int count = 100'000;
  double moments[5] = {};
  for (int i = 0; i < count; ++i) {
    const double x = random.normal(std::uint64_t(i));
    for (int power = 1; power <= 4; ++power) moments[power] += std::pow(x, power) / count;
  }
  // The variances of x, x^2, x^3, x^4 are 1, 2, 15 and 96.
  const double wanted[] = {0, 0, 1, 0, 3}, variances[] = {0, 1, 2, 15, 96};
  for (int power = 1; power <= 4; ++power)
    EXPECT_NEAR(moments[power], wanted[power], 5 * std::sqrt(variances[power] / count)) << power;
}

TEST(Philox, NeighbouringNormalNumbersAreNotCorrelated) {
  const Random random{9, 4, 2};
  const int count = 50'000;
  double products = 0;
  for (int i = 0; i < count; ++i)
    products += random.normal(std::uint64_t(i)) * random.normal(std::uint64_t(i) + 1) / count;
  EXPECT_NEAR(products, 0, 5 / std::sqrt(count));
}

}  // namespace
}  // namespace pf
