#include "launch/layout_command.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/backend.h"
#include "launch/run_mesh.h"
#include "parallel/communicator.h"
#include "tests/launch/config_text.h"

namespace pf {
namespace {

using Groups = std::vector<std::vector<int>>;

// The folded example of docs/design.md, section 5: 16 ranks, tp 2, cp 2, ep 8.
config::Config folded(const Overrides& more = {}) {
  Overrides all{with_moe, "parallel={ranks: 16, tp: 2, cp: 2, ep: 8}", "cluster.ranks_per_node=8"};
  all.insert(all.end(), more.begin(), more.end());
  return parse_config(small_run, "run.yaml", all, {.is_for_layout = true});
}

TEST(LayoutCommand, GroupsOfBothViewsAreThoseOfTheRankArithmetic) {
  const Layout layout = layout_of(folded());
  const auto groups = [&](const Axes& set, View view) { return groups_of(layout, set, view); };
  EXPECT_EQ(groups(axes::tp, View::dense)[1], (std::vector<int>{2, 3}));
  EXPECT_EQ(groups(axes::cp, View::dense)[2], (std::vector<int>{4, 6}));
  EXPECT_EQ(groups(axes::dp, View::dense)[1], (std::vector<int>{1, 5, 9, 13}));
  EXPECT_EQ(groups(axes::ep, View::expert)[1], (std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(groups(axes::edp, View::expert)[3], (std::vector<int>{3, 11}));
  EXPECT_EQ(groups(axes::etp, View::expert), groups(axes::pp, View::dense));
}

TEST(LayoutCommand, GroupsAreThoseOfTheMesh) {
  Device device(make_cpu_backend(1, -1), 1 << 20);
  const Layout layout = Layout::make(24, 2, 3, 4, 3, 2, 1);
  for (int rank = 0; rank < 24; ++rank) {
    FakeCommunicator communicator(rank, 24);
    std::vector<int> all(24);
    std::iota(all.begin(), all.end(), 0);
    const Mesh mesh(communicator, device, layout, all);
    for (const auto& [set, view] : {std::pair(axes::tp, View::dense),
                                    {axes::cp, View::dense},
                                    {axes::dp, View::dense},
                                    {axes::pp, View::dense},
                                    {axes::etp, View::expert},
                                    {axes::ep, View::expert},
                                    {axes::edp, View::expert}}) {
      const Groups groups = groups_of(layout, set, view);
      EXPECT_NE(std::ranges::find(groups, mesh.group(set)), groups.end()) << name(set) << rank;
    }
  }
}

TEST(LayoutCommand, SaysWhichGroupsLeaveANode) {
  const std::string text = layout_text(folded());
  EXPECT_NE(text.find("16 ranks, 2 nodes\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  ep     8  2 groups of 8, none leave a node\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  edp    2  8 groups of 2, 8 leave a node\n"
                      "          {0 8}* {1 9}* "),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("     13     1     1    0    3    0      0    5    1  5\n"),
            std::string::npos)
      << text;
  const std::string one_node = layout_text(folded({"cluster.ranks_per_node=0"}));
  EXPECT_EQ(one_node.find('*'), one_node.find("* leaves")) << one_node;
}

TEST(LayoutCommand, RefusesWhatDoesNotDivide) {
  const auto said = [](const std::string& parallel) {
    return error_of([&] {
      parse_config(small_run, "run.yaml", {with_moe, parallel}, {.is_for_layout = true});
    });
  };
  EXPECT_NE(said("parallel={ranks: 16, tp: 3}").find("nearest: 15 or 18"), std::string::npos)
      << said("parallel={ranks: 16, tp: 3}");
  EXPECT_NE(said("parallel={ranks: 15, ep: 5}")
                .find("parallel.ep: found 5, wanted a divisor of "
                      "model.moe.experts=8; nearest: 4 or 8"),
            std::string::npos);
}

}  // namespace
}  // namespace pf
