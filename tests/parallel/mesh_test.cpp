#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "core/backend.h"
#include "core/error.h"

namespace pf {
namespace {

// Rank `rank` of a layout, alone.
struct Place {
  FakeCommunicator communicator;
  Device device{make_cpu_backend(1)};
  Mesh mesh;

  Place(int rank, const Layout& layout)
      : communicator(rank, layout.ranks()), mesh(communicator, device, layout, all(layout)) {}
  static std::vector<int> all(const Layout& layout) {
    std::vector<int> ranks(std::size_t(layout.ranks()));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }
};

using Groups = std::set<std::vector<int>>;

Groups groups(const Layout& layout, const Axes& set) {
  Groups out;
  for (int r = 0; r < layout.ranks(); ++r) out.insert(Place(r, layout).mesh.group(set));
  return out;
}

TEST(Mesh, TheGroupsOfSixteenRanksAreThoseOfTheWorkedExample) {
  // Liu et al. 2025, "MoE parallel folding": tp 2, cp 2, ep 8.
  const Layout layout = Layout::make(16, 2, 2, 8, 1, 1, 8);
  EXPECT_EQ(layout.dp, 4);
  EXPECT_EQ(layout.edp, 2);
  Groups pairs, singles, replicas;
  for (int r = 0; r < 16; r += 2) pairs.insert({r, r + 1});
  EXPECT_EQ(groups(layout, axes::tp), pairs);
  const Groups cp{{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}};
  EXPECT_EQ(groups(layout, axes::cp), cp);
  const Groups dp{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}};
  EXPECT_EQ(groups(layout, axes::dp), dp);
  const Groups ep{{0, 1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14, 15}};
  EXPECT_EQ(groups(layout, axes::ep), ep);
  for (int r = 0; r < 16; ++r) singles.insert({r});
  EXPECT_EQ(groups(layout, axes::etp), singles);
  for (int r = 0; r < 8; ++r) replicas.insert({r, r + 8});
  EXPECT_EQ(groups(layout, axes::edp), replicas);
  const Groups dense{{0, 2, 4, 6, 8, 10, 12, 14}, {1, 3, 5, 7, 9, 11, 13, 15}};
  EXPECT_EQ(groups(layout, axes::cp * axes::dp), dense);
}

TEST(Mesh, StagesAgreeInBothViewsOfEveryLegalLayout) {
  int legal = 0;
  for (int ranks : {8, 16, 32}) {
    for (int tp = 1; tp <= ranks; tp *= 2)
      for (int cp = 1; cp <= ranks; cp *= 2)
        for (int ep = 1; ep <= ranks; ep *= 2)
          for (int etp = 1; etp <= ranks; etp *= 2)
            for (int pp = 1; pp <= ranks; pp *= 2) {
              if (tp * cp * pp > ranks || etp * ep * pp > ranks) continue;
              ++legal;
              const Layout layout = Layout::make(ranks, tp, cp, ep, etp, pp, ranks);
              const int stage = ranks / pp;
              EXPECT_EQ(layout.share * layout.kv * layout.cp * layout.dp, stage);
              EXPECT_EQ(layout.etp * layout.ep * layout.edp, stage);
              for (int r : {0, stage - 1, ranks - stage, ranks - 1}) {
                const Place place(r, layout);
                std::vector<int> here(static_cast<std::size_t>(stage));
                std::iota(here.begin(), here.end(), r / stage * stage);
                EXPECT_EQ(place.mesh.coordinate(axes::pp), r / stage);
                EXPECT_EQ(place.mesh.group(axes::tp * axes::cp * axes::dp), here);
                EXPECT_EQ(place.mesh.group(axes::etp * axes::ep * axes::edp), here);
              }
            }
  }
  EXPECT_EQ(legal, 1329);
}

TEST(Mesh, TheRanksOfAnySetCoverTheMeshOnceInOrderOfTheirCoordinate) {
  const Layout layout{.share = 2, .kv = 3, .cp = 2, .dp = 2, .etp = 3, .ep = 2, .edp = 4, .pp = 2};
  const Axes sets[] = {axes::tp,
                       {Axis::kv},
                       axes::cp * axes::pp,
                       axes::tp * axes::dp,
                       axes::dp * axes::tp,
                       axes::etp * axes::edp,
                       axes::pp,
                       {}};
  for (const Axes& set : sets) {
    std::multiset<int> seen;
    for (const std::vector<int>& group : groups(layout, set)) {
      seen.insert(group.begin(), group.end());
      for (std::size_t i = 0; i < group.size(); ++i) {
        const Place place(group[i], layout);
        EXPECT_EQ(place.mesh.coordinate(set), int(i));
        EXPECT_EQ(place.mesh.size(set), int(group.size()));
      }
    }
    EXPECT_EQ(std::vector<int>(seen.begin(), seen.end()), Place::all(layout));
  }
}

TEST(Mesh, ASetOfBothViewsIsAnError) {
  const Place place(0, Layout{});
  EXPECT_THROW(place.mesh.group(axes::tp * axes::ep), Error);
}

TEST(Mesh, MayBeMadeOfSomeRanksOfTheWorld) {
  FakeCommunicator communicator(5, 8);
  Device device(make_cpu_backend(1));
  const Mesh mesh(communicator, device, {.dp = 2, .edp = 2}, {4, 5});
  EXPECT_EQ(mesh.rank(), 1);
  EXPECT_EQ(mesh.group(axes::dp), (std::vector<int>{4, 5}));
  EXPECT_THROW(Mesh(communicator, device, {.dp = 2, .edp = 2}, {0, 1}), Error);
  EXPECT_THROW(Mesh(communicator, device, {.dp = 2, .edp = 1}, {4, 5}), Error);
}

TEST(Layout, HasNoMoreKvRanksThanKvHeads) {
  const Layout layout = Layout::make(8, 8, 1, 1, 1, 1, 2);
  EXPECT_EQ(layout.share, 4);
  EXPECT_EQ(layout.kv, 2);
  EXPECT_EQ(layout.size(Axis::edp), 8);
}

TEST(Layout, SaysWhatDoesNotDivide) {
  const auto message = [](auto make) {
    try {
      make();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message([] { return Layout::make(8, 3, 1, 1, 1, 1, 1); }),
            "layout: tp x cp x pp = 3 x 1 x 1 = 3 must divide the 8 ranks");
  EXPECT_EQ(message([] { return Layout::make(8, 1, 1, 4, 4, 1, 1); }),
            "layout: etp x ep x pp = 4 x 4 x 1 = 16 must divide the 8 ranks");
  EXPECT_EQ(message([] { return Layout::make(4, 4, 1, 1, 1, 1, 3); }),
            "layout: tp = 4 and 3 KV heads: one must divide the other");
  EXPECT_NE(message([] { return Layout::make(4, 0, 1, 1, 1, 1, 1); }), "");
}

TEST(Mesh, ParametersAreCutInTheDimThatTheirLabelNames) {
  const Layout layout{.share = 1, .kv = 2, .cp = 1, .dp = 2, .etp = 2, .ep = 2, .edp = 1};
  const Place place(3, layout);  // tp 1 of 2; etp 1 of 2, ep 1 of 2
  const auto replicated = Spread::replicated;
  const Block rows = place.mesh.place("w", {8, 6}, dense(Spread::rows, replicated, replicated));
  EXPECT_EQ(rows.extents, (Shape{4, 6}));
  EXPECT_EQ(rows.begin[0], 4);
  EXPECT_EQ(rows.begin[1], 0);
  const Block columns =
      place.mesh.place("w", {8, 6}, dense(Spread::columns, replicated, replicated));
  EXPECT_EQ(columns.extents, (Shape{8, 3}));
  EXPECT_EQ(columns.begin[1], 3);
  const Block bias = place.mesh.place("b", {8}, dense(Spread::rows, replicated, replicated));
  EXPECT_EQ(bias.extents, (Shape{4}));
  const Block experts =
      place.mesh.place("w", {4, 8, 6}, expert(Spread::columns, Spread::experts, replicated));
  EXPECT_EQ(experts.extents, (Shape{2, 8, 3}));
  EXPECT_EQ(experts.begin[0], 2);
  EXPECT_EQ(experts.begin[2], 3);
  const Block whole = place.mesh.place("w", {3, 5}, dense(replicated, replicated, replicated));
  EXPECT_EQ(whole.extents, (Shape{3, 5}));
}

TEST(Mesh, ACutThatDoesNotDivideIsAnErrorWithTheNumbers) {
  const Place place(0, Layout{.kv = 2, .edp = 2});
  const auto replicated = Spread::replicated;
  try {
    place.mesh.place("layer 3 q", {7, 6}, dense(Spread::rows, replicated, replicated));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "layer 3 q: dim 0 of [7, 6], 7, is not a multiple of tp = 2");
  }
  EXPECT_THROW(place.mesh.place("w", {8}, dense(Spread::rows, Spread::experts, replicated)), Error);
}

TEST(Mesh, PartsThatAreNearlyEvenCoverTheWhole) {
  const Layout layout{.share = 2, .kv = 2, .edp = 4};
  const Label label = dense(Spread::rows, Spread::replicated, Spread::replicated);
  for (const std::int64_t size : {4, 5, 6, 7, 11}) {
    std::int64_t end = 0;
    for (int rank = 0; rank < 4; ++rank) {
      const Block block = Place(rank, layout).mesh.place("w", {size, 3}, label, true);
      EXPECT_EQ(block.begin[0], end);
      EXPECT_GE(block.extents[0], size / 4);
      EXPECT_LE(block.extents[0], size / 4 + 1);
      end += block.extents[0];
    }
    EXPECT_EQ(end, size);
  }
  EXPECT_THROW(Place(0, layout).mesh.place("w", {3, 3}, label, true), Error);
}

TEST(Layout, NamesItsSizes) {
  EXPECT_EQ(text(Layout::make(8, 4, 1, 4, 1, 1, 2)),
            "tp 4 (share 2), cp 1, dp 2, etp 1, ep 4, edp 2, pp 1");
}

TEST(Mesh, ARanksNumberIsAVaryingConstant) {
  const Place place(3, Layout{.kv = 2, .dp = 2, .edp = 4});
  const Tensor index = place.mesh.index(axes::dp, Spread::rows);
  EXPECT_EQ(index.to_vector<std::int64_t>(), std::vector<std::int64_t>{1});
  EXPECT_TRUE(index.label().constant);
  EXPECT_EQ(index.label()[Axis::dp], Spread::rows);
  EXPECT_EQ(index.label()[Axis::kv], Spread::replicated);
  EXPECT_EQ(place.mesh.index(axes::ep, Spread::experts).label().view, View::expert);
  EXPECT_THROW(place.mesh.index(axes::dp, Spread::replicated), Error);
}

}  // namespace
}  // namespace pf
