// What a cap of the processor's level leaves.
#include "core/cpu/processor.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

#include "core/cpu/bf16_gemm.h"
#include "core/error.h"

namespace pf {
namespace {

// PENTAFOLD_CPU for the time of a test; null: not set.
class Cap {
 public:
  explicit Cap(const char* level) {
    if (const char* old = std::getenv(variable)) before_ = old;
    set(level);
  }
  ~Cap() { set(before_ ? before_->c_str() : nullptr); }
  Cap(const Cap&) = delete;
  Cap& operator=(const Cap&) = delete;

 private:
  static constexpr const char* variable = "PENTAFOLD_CPU";
  static void set(const char* level) {
    if (level == nullptr)
      unsetenv(variable);
    else
      setenv(variable, level, 1);
  }
  std::optional<std::string> before_;
};

TEST(Processor, ACapLeavesTheLevelsUpToIt) {
  std::vector<Isa> all;
  {
    const Cap none(nullptr);
    all = usable_isas();
  }
  for (const Isa highest : {Isa::base, Isa::v3, Isa::v4}) {
    const Cap cap(name(highest));
    std::vector<Isa> wanted;
    for (const Isa isa : all)
      if (isa <= highest) wanted.push_back(isa);
    EXPECT_EQ(usable_isas(), wanted) << name(highest);
  }
}

TEST(Processor, BelowAvx512NoProductsOfBf16AreLeft) {
  for (const char* level : {"sse2", "avx2"}) {
    const Cap cap(level);
    EXPECT_FALSE(has_avx512_bf16());
    EXPECT_FALSE(has_amx_bf16());
    EXPECT_EQ(Bf16Gemm(usable_isas().back()).level(), Bf16Level::widened);
    EXPECT_EQ(processor_features(usable_isas().back()), name(usable_isas().back()));
  }
}

TEST(Processor, AWrongCapIsAnError) {
  for (const char* level : {"", "AVX2", "avx", "sse2 avx2"}) {
    const Cap cap(level);
    EXPECT_THROW(usable_isas(), Error) << level;
  }
}

}  // namespace
}  // namespace pf
