#include "launch/check_traffic.h"

#include <gtest/gtest.h>

namespace pf {
namespace {

TEST(CheckTraffic, GroupsLeaveANodeWhereTheirRanksAreOnTwo) {
  const Layout layout = Layout::make(16, 2, 2, 8, 1, 1, 2);
  EXPECT_EQ(groups_that_leave(layout, "tp", 8), 0);
  EXPECT_EQ(groups_that_leave(layout, "tp", 3), 3);  // {2 3}, {8 9} and {14 15} cross 3, 9, 15
  EXPECT_EQ(groups_that_leave(layout, "cp", 8), 0);
  EXPECT_EQ(groups_that_leave(layout, "dp", 8), 4);
  EXPECT_EQ(groups_that_leave(layout, "tp x dp", 8), 2);
  EXPECT_EQ(groups_that_leave(layout, "ep", 8), 0);
  EXPECT_EQ(groups_that_leave(layout, "edp", 8), 8);
  EXPECT_EQ(groups_that_leave(layout, "edp", 0), 0);
  EXPECT_EQ(groups_that_leave(Layout::make(16, 2, 1, 1, 1, 4, 2), "ends", 8), 4);
  EXPECT_EQ(groups_that_leave(Layout::make(16, 2, 1, 1, 1, 4, 2), "pp", 16), 0);
}

TEST(CheckTraffic, OfEachCallTheLargestStageCounts) {
  RankNeeds first, second;
  first.traffic = {{"all_gather", "tp", 2, 10}, {"send", "pp", 1, 5}};
  second.traffic = {{"all_gather", "tp", 3, 12}, {"all_gather", "cp", 1, 20}};
  const std::vector<Traffic> expected{
      {"all_gather", "cp", 1, 20}, {"all_gather", "tp", 3, 12}, {"send", "pp", 1, 5}};
  EXPECT_EQ(largest_traffic({first, second}), expected);
}

}  // namespace
}  // namespace pf
