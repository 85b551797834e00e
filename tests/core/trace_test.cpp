#include "core/trace.h"

#include <gtest/gtest.h>

#include <string>

namespace pf {
namespace {

TEST(Trace, RecordsSpansOfThisThreadWhileARecordingLives) {
  Trace trace(10);
  { const Span before("kernel", "before"); }
  {
    const Trace::Recording on(&trace);
    Span outer("layer", "forward of ", "layers.1");
    EXPECT_TRUE(outer.is_recorded());
    outer.fact("key", "value");
    { const Span inner("kernel", "product"); }
    {
      const Trace::Recording pause(nullptr);
      const Span paused("kernel", "paused");
      EXPECT_FALSE(paused.is_recorded());
    }
  }
  { const Span after("kernel", "after"); }
  ASSERT_EQ(trace.events().size(), 2u);
  const Trace::Event &inner = trace.events()[0], &outer = trace.events()[1];
  EXPECT_EQ(inner.name, "product");
  EXPECT_EQ(outer.name, "forward of layers.1");
  EXPECT_EQ(outer.facts[0].second, "value");
  EXPECT_LE(outer.begin, inner.begin);
  EXPECT_LE(inner.begin, inner.end);
  EXPECT_LE(inner.end, outer.end);
}

TEST(Trace, KeepsNoMoreThanItMay) {
  Trace trace(3);
  for (std::size_t i = 0; i < 5; ++i) trace.count("bytes", i);
  EXPECT_EQ(trace.events().size(), 3u);
  EXPECT_EQ(trace.events()[2].bytes, 2);
  EXPECT_EQ(trace.dropped(), 2u);
}

}  // namespace
}  // namespace pf
