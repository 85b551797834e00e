#include "launch/sent_bytes.h"

#include <gtest/gtest.h>

namespace pf {
namespace {

// "tp 5, dp 7"
std::string text(const std::vector<SentBytes>& all) {
  std::string out;
  for (const SentBytes& sent : all)
    out += (out.empty() ? "" : ", ") + sent.axes + ' ' + std::to_string(sent.bytes);
  return out;
}

const std::vector<Traffic> traffic{{"all_gather", "tp", 2, 100},
                                   {"scatter_gradients", "cp x dp", 1, 30},
                                   {"trace", "", 1, 999},
                                   {"reduce_scatter", "tp", 2, 7}};

TEST(Sent, IsAddedUpByAxes) {
  EXPECT_EQ(text(sent_bytes(traffic)), "tp 107, cp x dp 30");
  EXPECT_EQ(text(sent_bytes({})), "");
}

TEST(Sent, SinceIsWhatCameOnTop) {
  const std::vector<SentBytes> before = sent_bytes(traffic);
  std::vector<Traffic> more = traffic;
  more[3].bytes += 5;
  more.push_back({"all_to_all", "ep", 1, 8});
  EXPECT_EQ(text(since(before, sent_bytes(more))), "tp 5, ep 8");
  EXPECT_EQ(text(since({}, before)), "tp 107, cp x dp 30");
}

}  // namespace
}  // namespace pf
