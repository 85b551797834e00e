#include "launch/freeze.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace pf {
namespace {

TEST(Freeze, AStarIsAnyText) {
  EXPECT_TRUE(fits("embedding", "embedding"));
  EXPECT_FALSE(fits("embed", "embedding"));
  EXPECT_TRUE(fits("embed*", "embedding"));
  EXPECT_TRUE(fits("embedding*", "embedding"));
  EXPECT_TRUE(fits("layers.*.norm", "layers.1.mlp.norm"));
  EXPECT_TRUE(fits("*a*b*", "xxaxxbxx"));
  EXPECT_FALSE(fits("*a*b", "xxaxxbxx"));
  EXPECT_FALSE(fits("layers.1.*", "layers.10.norm"));
  EXPECT_FALSE(fits("", "a"));
}

TEST(Freeze, ManyStarsTakeNoTime) {
  const std::string name(200, 'a');
  std::string pattern;
  for (int i = 0; i < 100; ++i) pattern += "*a";
  EXPECT_TRUE(fits(pattern + "*", name));
  EXPECT_TRUE(fits(pattern, name));
  EXPECT_FALSE(fits(pattern + "*b", name));
  EXPECT_FALSE(fits("ab*b", "ab"));
}

struct Weights {
  Parameter one{"layers.0.norm", {4}, Block{{}, {4}}, Label{}, Init::ones};
  Parameter two{"layers.1.norm", {4}, Block{{}, {4}}, Label{}, Init::ones};

  std::string frozen_by(const std::string& patterns) {
    try {
      const auto visit = [&](const Visitor& visitor) {
        visitor.parameter(one);
        visitor.parameter(two);
      };
      freeze(patterns, visit, [](const std::string& key, const std::string& text) {
        throw Error(key + ": " + text);
      });
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST(Freeze, TakesTheParametersThatFit) {
  Weights weights;
  EXPECT_EQ(weights.frozen_by(""), "no error");
  EXPECT_TRUE(weights.one.is_trainable());
  EXPECT_EQ(weights.frozen_by("layers.0.*, *0.norm"), "no error");
  EXPECT_FALSE(weights.one.is_trainable());
  EXPECT_TRUE(weights.two.is_trainable());
}

TEST(Freeze, APatternThatNothingFitsIsAnError) {
  EXPECT_EQ(Weights().frozen_by("layers.0.*,layers.1.nrom"),
            "train.freeze: found 'layers.1.nrom', which no parameter's name fits; nearest: "
            "layers.1.norm");
  EXPECT_EQ(Weights().frozen_by("*,"),
            "train.freeze: found '', which no parameter's name fits; nearest: layers.0.norm");
}

TEST(Freeze, SomethingIsLeftToTrain) {
  EXPECT_EQ(Weights().frozen_by("layers.0.*, layers.1.norm"),
            "train.freeze: found 'layers.0.*, layers.1.norm', which freezes all 2 parameters; "
            "wanted some to train");
}

TEST(Freeze, OfAPartOfAModelNothingNeedFitOrBeLeft) {
  Weights weights;
  const auto visit = [&](const Visitor& visitor) { visitor.parameter(weights.one); };
  freeze("embedding", visit, {});
  EXPECT_TRUE(weights.one.is_trainable());
  freeze("layers.*", visit, {});
  EXPECT_FALSE(weights.one.is_trainable());
  freeze("layers.*", [](const Visitor&) {}, {});
}

}  // namespace
}  // namespace pf
