// Replicas that divide the optimizer's state do what replicas do that each have all of it.
#include <gtest/gtest.h>

#include "optim/optimizer.h"
#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 8, count = 12;
using Kind = config::Optimizer;
constexpr Kind::Kind kinds[] = {Kind::adamw, Kind::sgd, Kind::muon};

struct Trained {
  Numbers losses;
  std::map<std::string, Numbers> weights;
  std::vector<Traffic> traffic;
  std::size_t state = 0;  // bytes

  friend bool operator==(const Trained& a, const Trained& b) {
    return a.losses == b.losses && a.weights == b.weights;
  }
};

config::Optimizer of_kind(Kind::Kind kind) {
  config::Optimizer config;
  config.set_kind(kind);
  config.set_lr(0.01);
  return config;
}

// Four steps on samples that are uneven.
Trained train(Recipe recipe, const config::Optimizer& config, const Mesh& mesh, int sharing,
              double clip) {
  recipe.sharing = {sharing, [&](const Parameter& w) { return needs_matrices(w, config); }};
  SmallModel model(recipe, mesh, length);
  const std::size_t before = mesh.device().memory().live;
  const auto optimizer =
      make_optimizer(config, mesh, model.gradients().parts(),
                     [&](const Visitor& visitor) { model.transformer().visit(visitor); });
  Trained out;
  out.state = mesh.device().memory().live - before;
  const Samples samples = uneven_samples(count, length, recipe.model.vocabulary());
  for (int step = 0; step < 4; ++step) {
    const StepOutcome one = model.step(samples, step);
    optimizer->step(0.01, one.norm > clip ? clip / one.norm : 1);
    model.gradients().share_values();
    out.losses.insert(out.losses.end(), {one.loss, one.balance_loss, one.z_loss, one.norm});
  }
  model.gradients().wait_for_values();
  out.weights = model.weights();
  out.traffic = mesh.communicator().traffic();
  return out;
}

std::vector<Trained> in_replicas(const Recipe& recipe, Kind::Kind kind, int ranks, int sharing,
                                 double clip = 1) {
  std::vector<Trained> out{std::size_t(ranks)};
  in_ranks(ranks, [&](const Mesh& mesh) {
    out[std::size_t(mesh.rank())] = train(recipe, of_kind(kind), mesh, sharing, clip);
  });
  return out;
}

double distance(const Trained& a, const Trained& b) {
  double worst = pf::distance(a.losses, b.losses, 1);
  for (const auto& [name, w] : a.weights)
    worst = std::max(worst, pf::distance(w, b.weights.at(name), 1));
  return worst;
}

TEST(Zero, EqualsOneRank) {
  for (const Kind::Kind kind : kinds) {
    const Trained want = in_replicas({}, kind, 1, 1)[0];
    for (const int ranks : {2, 3, 4})
      EXPECT_LT(distance(want, in_replicas({}, kind, ranks, 0)[0]), 1e-10)
          << Kind::Kind_Name(kind) << ' ' << ranks;
  }
}

// Sums are made in the same order. The norm is added up slice by slice: with Muon, slices end where
// matrices do, so that what the norm scales differs in its last bits.
TEST(Zero, HasTheBitsOfReplicasThatShareNothing) {
  for (const Kind::Kind kind : kinds) {
    const double clip = kind == Kind::muon ? INFINITY : 1;
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      const Recipe recipe{.model = small_moe(config::Balance::mixed), .type = type};
      for (const int ranks : {1, 2, 3, 4}) {
        SCOPED_TRACE(Kind::Kind_Name(kind) + ' ' + name(type) + ' ' + std::to_string(ranks));
        const Trained want = in_replicas(recipe, kind, ranks, 1, clip)[0];
        for (const Trained& got : in_replicas(recipe, kind, ranks, 0, clip)) {
          EXPECT_EQ(got.weights, want.weights);
          EXPECT_TRUE(kind == Kind::muon || got.losses == want.losses);
        }
      }
    }
  }
}

TEST(Zero, InGroupsEqualsReplicasThatShareNothing) {
  for (const Kind::Kind kind : kinds) {
    const Trained want = in_replicas({}, kind, 4, 1)[0];
    const std::vector<Trained> got = in_replicas({}, kind, 4, 2);
    for (const Trained& one : got) EXPECT_TRUE(one == got[0]);
    EXPECT_LT(distance(want, got[0]), 1e-12) << Kind::Kind_Name(kind);
  }
}

TEST(Zero, WithFrozenParametersAndRecomputeToo) {
  Recipe recipe{.recomputes = true,
                .frozen = {"embedding", "layers.0.attention.k", "layers.1.moe.router"}};
  const Trained want = in_replicas(recipe, Kind::adamw, 3, 1)[0];
  EXPECT_LT(distance(want, in_replicas(recipe, Kind::adamw, 3, 0)[2]), 1e-12);
}

// Two moments of AdamW for each element of the buckets; slices end at multiples of 64 bytes.
TEST(Zero, StatesAreCut) {
  const auto states = [](int sharing) {
    std::vector<std::size_t> out;
    for (const Trained& one : in_replicas({}, Kind::adamw, 4, sharing)) out.push_back(one.state);
    return out;
  };
  const std::vector<std::size_t> whole = states(1), halves = states(2), quarters = states(0);
  const auto sum = [](const std::vector<std::size_t>& of) {
    return std::accumulate(of.begin(), of.end(), std::size_t(0));
  };
  EXPECT_EQ(sum(halves), sum(whole) / 2);
  EXPECT_EQ(sum(quarters), sum(whole) / 4);
  for (const std::size_t one : quarters)  // buckets x (a block at each end) x two moments
    EXPECT_NEAR(double(one), double(whole[0]) / 4, 7 * 2 * 64 * 2);
}

}  // namespace
}  // namespace pf
