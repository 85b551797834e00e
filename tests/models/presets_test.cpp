#include "models/presets.h"

#include <gtest/gtest.h>

#include <set>

#include "models/transformer.h"

namespace pf {
namespace {

TEST(Presets, HaveAsManyParametersAsWhatWasPublished) {
  for (const Preset& preset : presets()) {
    const std::int64_t found = model_size(preset.model, 1).parameters;
    if (preset.is_exact)
      EXPECT_EQ(found, preset.parameters) << preset.name;
    else
      EXPECT_NEAR(double(found), double(preset.parameters), 0.01 * double(preset.parameters))
          << preset.name;
  }
}

// The names say how many billions of weights a token meets: 14, 3 and 22; of the others the
// reports.
TEST(Presets, HaveAsManyActiveParametersAsTheirNamesSay) {
  const auto active = [](const char* name) {
    return double(model_size(find_preset(name)->model, 1).active_parameters) / 1e9;
  };
  EXPECT_NEAR(active("qwen2-57b-a14b"), 14, 0.5);
  EXPECT_NEAR(active("qwen3-30b-a3b"), 3.3, 0.1);
  EXPECT_NEAR(active("qwen3-235b-a22b"), 22, 0.5);
  EXPECT_NEAR(active("deepseek-v3"), 37, 0.6);
  EXPECT_NEAR(active("mixtral-8x7b"), 12.9, 0.1);
  EXPECT_NEAR(active("mixtral-8x22b"), 39, 0.3);
}

TEST(Presets, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const Preset& preset : presets()) EXPECT_TRUE(names.insert(preset.name).second);
  EXPECT_EQ(find_preset("opt-350m"), nullptr);
  EXPECT_EQ(find_preset("deepseek-v3")->model.moe().groups(), 8);
}

}  // namespace
}  // namespace pf
