// Replicas that divide the optimizer's state, gradients or weights do what replicas do that each
// have all of them.
#include <gtest/gtest.h>

#include "optim/optimizer.h"
#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 8, count = 12;
using Kind = config::Optimizer;
constexpr Kind::Kind kinds[] = {Kind::adamw, Kind::sgd, Kind::muon};
constexpr Divided stages[] = {Divided::states, Divided::gradients, Divided::weights};

struct Trained {
  Numbers losses;
  std::map<std::string, Numbers> weights;
  std::size_t state = 0;  // bytes
  Memory memory;          // of the steps

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

struct Task {
  Recipe recipe = {};
  Kind::Kind kind = Kind::adamw;
  int sharing = 1;
  Divided divided = Divided::states;
  double clip = 1;
};

// Four steps on samples that are uneven.
Trained train(const Task& task, const Mesh& mesh) {
  const config::Optimizer config = of_kind(task.kind);
  Recipe recipe = task.recipe;
  recipe.sharing = {task.sharing, [&](const Parameter& w) { return needs_matrices(w, config); },
                    task.divided};
  SmallModel model(recipe, mesh, length);
  const std::size_t before = mesh.device().memory().live;
  const auto optimizer =
      make_optimizer(config, mesh, model.gradients().parts(),
                     [&](const Visitor& visitor) { model.transformer().visit(visitor); });
  Trained out;
  out.state = mesh.device().memory().live - before;
  const Samples samples = uneven_samples(count, length, recipe.model.vocabulary());
  for (int step = 0; step < 4; ++step) {
    if (step == 1) mesh.device().restart_peak();
    const StepOutcome one = model.step(samples, step);
    optimizer->step(0.01, one.norm > task.clip ? task.clip / one.norm : 1);
    model.gradients().share_values();
    out.losses.insert(out.losses.end(), {one.loss, one.balance_loss, one.z_loss, one.norm});
  }
  model.gradients().wait_for_values();
  out.memory = mesh.device().memory();
  out.weights = model.weights();
  return out;
}

std::vector<Trained> in_layout(const Task& task, const Layout& layout) {
  std::vector<Trained> out{std::size_t(layout.ranks())};
  in_ranks(layout, [&](const Mesh& mesh) { out[std::size_t(mesh.rank())] = train(task, mesh); });
  return out;
}

std::vector<Trained> in_replicas(const Task& task, int ranks) {
  return in_layout(task, {.dp = ranks, .edp = ranks});
}

double distance(const Trained& a, const Trained& b) {
  double worst = pf::distance(a.losses, b.losses, 1);
  for (const auto& [name, w] : a.weights)
    worst = std::max(worst, pf::distance(w, b.weights.at(name), 1));
  return worst;
}

TEST(Zero, EqualsOneRank) {
  for (const Kind::Kind kind : kinds) {
    const Trained want = in_replicas({.kind = kind}, 1)[0];
    for (const Divided divided : stages)
      for (const int ranks : {2, 3, 4})
        EXPECT_LT(
            distance(want, in_replicas({.kind = kind, .sharing = 0, .divided = divided}, ranks)[0]),
            1e-10)
            << Kind::Kind_Name(kind) << ' ' << int(divided) << ' ' << ranks;
  }
}

TEST(Zero, EqualsOneRankInFoldedLayouts) {
  for (const Kind::Kind kind : {Kind::adamw, Kind::muon}) {
    Recipe recipe{.model = small_moe(config::Balance::mixed), .group = 4};
    recipe.model.set_tied(true);
    const Trained want = in_layout({.recipe = recipe, .kind = kind}, {})[0];
    for (const Layout& layout : {Layout{.kv = 1, .cp = 2, .dp = 2, .etp = 1, .ep = 2, .edp = 2},
                                 Layout{.share = 2, .dp = 2, .ep = 2, .edp = 2},
                                 Layout{.share = 2, .cp = 2, .dp = 2, .etp = 2, .ep = 2, .edp = 2}})
      for (const Divided divided : stages)
        for (const int sharing : {0, 2})
          EXPECT_LT(distance(want, in_layout({recipe, kind, sharing, divided}, layout)[0]), 1e-10)
              << text(layout) << ' ' << int(divided) << ' ' << sharing;
  }
}

// Embedding and head are tied, and on two stages.
TEST(Zero, EqualsOneRankInPipelines) {
  Recipe recipe;
  recipe.model.set_tied(true);
  const Trained want = in_layout({.recipe = recipe}, {})[0];
  struct Way {
    ScheduleKind schedule;
    int chunks;
  };
  for (const Way& way : {Way{ScheduleKind::one_f_one_b, 1}, Way{ScheduleKind::zero_bubble_h1, 1},
                         Way{ScheduleKind::interleaved, 2}, Way{ScheduleKind::zero_bubble_v, 2}})
    for (const Divided divided : stages) {
      recipe.schedule = way.schedule;
      recipe.chunks = way.chunks;
      const Task task{.recipe = recipe, .sharing = 0, .divided = divided};
      // The first rank of the last stage: its replica has compared its weights with it.
      EXPECT_LT(distance(want, in_layout(task, {.dp = 2, .edp = 2, .pp = 2})[2]), 1e-10)
          << name(way.schedule) << ' ' << int(divided);
    }
}

// Sums are made in the same order, if gradients are not reduced by micro-batch: a replica has one.
// The norm is added up slice by slice: with Muon, slices end where matrices do, so that what the
// norm scales differs in its last bits.
TEST(Zero, HasTheBitsOfReplicasThatShareNothing) {
  for (const Kind::Kind kind : kinds) {
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      for (const int ranks : {1, 2, 3, 4}) {
        for (const Divided divided : stages) {
          SCOPED_TRACE(Kind::Kind_Name(kind) + ' ' + name(type) + ' ' + std::to_string(ranks) +
                       ", stage " + std::to_string(int(divided) + 1));
          Task task{.recipe = {.model = small_moe(config::Balance::mixed), .type = type},
                    .kind = kind,
                    .clip = kind == Kind::muon ? INFINITY : 1};
          if (divided != Divided::states) task.recipe.micro_batch = count / ranks;
          const Trained want = in_replicas(task, ranks)[0];
          task.sharing = 0;
          task.divided = divided;
          for (const Trained& got : in_replicas(task, ranks)) {
            EXPECT_EQ(got.weights, want.weights);
            EXPECT_TRUE(kind == Kind::muon || got.losses == want.losses);
          }
        }
      }
    }
  }
}

TEST(Zero, InGroupsEqualsReplicasThatShareNothing) {
  for (const Kind::Kind kind : kinds) {
    const Trained want = in_replicas({.kind = kind}, 4)[0];
    for (const Divided divided : stages) {
      const auto got = in_replicas({.kind = kind, .sharing = 2, .divided = divided}, 4);
      for (const Trained& one : got) EXPECT_TRUE(one == got[0]);
      EXPECT_LT(distance(want, got[0]), 1e-12) << Kind::Kind_Name(kind) << ' ' << int(divided);
    }
  }
}

// In each stage, with gradients of weights at once and later.
std::vector<Task> divided_in_all_ways(Task task) {
  std::vector<Task> ways;
  task.sharing = 0;
  for (const Divided divided : stages)
    for (const auto schedule : {ScheduleKind::one_f_one_b, ScheduleKind::zero_bubble_h1}) {
      task.divided = divided;
      task.recipe.schedule = schedule;
      ways.push_back(task);
    }
  return ways;
}

TEST(Zero, WithFrozenParametersRecomputeAndDeferralToo) {
  const Task task{
      .recipe = {.recompute = {Recompute::full},
                 .frozen = {"embedding", "layers.0.attention.k", "layers.1.moe.router"}}};
  const Trained want = in_replicas(task, 3)[0];
  for (const Task& way : divided_in_all_ways(task))
    EXPECT_LT(distance(want, in_replicas(way, 3)[2]), 1e-12)
        << int(way.divided) << ' ' << name(way.recipe.schedule);
}

TEST(Zero, OfLowRankChangesToo) {
  for (const DType type : {DType::f64, DType::bf16}) {
    const Task task{.recipe = {.type = type,
                               .micro_batch = 4,
                               .adapted = {.names = {"attention.q", "attention.v", "experts.down"},
                                           .b_std = 0.1}}};
    const Trained want = in_replicas(task, 3)[0];
    for (const Task& way : divided_in_all_ways(task))
      EXPECT_TRUE(in_replicas(way, 3)[1] == want)
          << name(type) << ' ' << int(way.divided) << ' ' << name(way.recipe.schedule);
  }
}

TEST(Zero, GivesTheSameBitsTwice) {
  for (const Divided divided : stages) {
    const Task task{.recipe = {.type = DType::bf16}, .sharing = 0, .divided = divided};
    EXPECT_TRUE(in_replicas(task, 3)[0] == in_replicas(task, 3)[2]);
  }
}

// Two moments of AdamW for each element of the buckets; slices end at multiples of 64 bytes.
TEST(Zero, StatesAreCut) {
  const auto states = [](int sharing) {
    std::vector<std::size_t> out;
    for (const Trained& one : in_replicas({.sharing = sharing}, 4)) out.push_back(one.state);
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

// Of a model with many layers, in f32: what is live between the steps is a rank's share of states,
// gradients and weights, and packs where weights stay.
TEST(Zero, EachStageKeepsLess) {
  Recipe recipe{.type = DType::f32, .micro_batch = 3};
  recipe.model.clear_moe();
  recipe.model.set_hidden(32);
  recipe.model.set_ffn(64);
  recipe.model.set_layers(16);
  const auto memory = [&](int sharing, Divided divided) {
    return in_replicas({.recipe = recipe, .sharing = sharing, .divided = divided}, 4)[1].memory;
  };
  std::int64_t elements = 0;
  const Trained alone = in_replicas({.recipe = recipe}, 1)[0];
  for (const auto& [name, w] : alone.weights) elements += std::ssize(w);
  const double weights = double(elements) * sizeof(float);
  const Memory whole = memory(1, Divided::states);
  EXPECT_NEAR(double(whole.live), 4 * weights, 0.05 * weights);
  const double kept[] = {1 + 1 + 2 / 4.0, 1 + 3 / 4.0, 4 / 4.0};  // of each stage
  std::size_t peak = whole.peak;
  for (const Divided divided : stages) {
    const Memory found = memory(0, divided);
    EXPECT_NEAR(double(found.live), kept[int(divided)] * weights, 0.05 * weights) << int(divided);
    EXPECT_LT(found.peak, peak) << int(divided);
    peak = found.peak;
  }
}

}  // namespace
}  // namespace pf
