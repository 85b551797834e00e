#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/prove_features.h"

namespace pf {
namespace {

// What a factor or level excludes: "factor" or "factor: level" on both sides. Of a factor, all
// levels but the first.
struct Exclusion {
  const char* one;
  const char* other;
};

constexpr Exclusion exclusions[] = {
    {"CP method", "cp: 1"},
    {"CP method: two_level", "cp: 2"},
    {"CP method: two_level", "cp: 3"},
    {"CP method: two_level", "attention: all heads share keys"},
    {"attention: latent", "heads"},
    {"attention: latent keys", "heads"},
    {"attention: latent", "positions: learned"},
    {"attention: latent keys", "positions: learned"},
    {"layers: all MoE", "MLP"},
    {"layers: none MoE", "etp"},
    {"layers: none MoE", "ep"},
    {"layers: none MoE", "dispatcher"},
    {"layers: none MoE", "top k"},
    {"layers: none MoE", "router"},
    {"layers: none MoE", "groups of experts"},
    {"layers: none MoE", "router's bias"},
    {"layers: none MoE", "shared expert"},
    {"layers: none MoE", "capacity"},
    {"layers: none MoE", "z loss"},
    {"layers: none MoE", "balance"},
    {"layers: none MoE", "balance group"},
    {"router: forced", "groups of experts"},
    {"router: forced", "router's bias"},
    {"balance: none", "balance group"},
    {"balance: micro", "balance group"},
    {"balance: sequence", "balance group"},
    {"micro-batch: 1", "least micro-batches of a replica: 2, the last one shorter"},
    {"layers of stages: uneven", "pp: 1"},
    {"schedule: interleaved", "balance group: a step"},
    {"schedule: zbv", "balance group: a step"},
    {"states: shared by two", "dp: 1"},
    {"states: shared by two", "dp: 3"},
};

// Of all levels of all factors.
struct Levels {
  std::vector<std::size_t> begins;  // of the factors
  std::size_t count = 0;

  Levels() {
    for (const Factor& factor : factors()) {
      begins.push_back(count);
      count += factor.levels.size();
    }
  }
  std::size_t pair(std::size_t f, std::size_t i, std::size_t g, std::size_t j) const {
    return (begins[f] + i) * count + begins[g] + j;
  }
};

// Looked up for every pair of levels and each choice of axes.
struct Pairs {
  Levels levels;
  std::vector<bool> excluded = std::vector<bool>(levels.count * levels.count);
};

std::vector<std::array<std::size_t, 2>> meant_by(const std::string& side) {
  std::vector<std::array<std::size_t, 2>> meant;
  for (std::size_t f = 0; f < factors().size(); ++f)
    for (std::size_t i = 0; i < factors()[f].levels.size(); ++i) {
      const std::string& factor = factors()[f].name;
      if ((factor == side && i > 0) || factor + ": " + factors()[f].levels[i].name == side)
        meant.push_back({f, i});
    }
  require(!meant.empty(), "random cases: no factor or level '", side, "'");
  return meant;
}

Pairs make_excluded() {
  Pairs all;
  for (const Exclusion& e : exclusions)
    for (const auto& [f, i] : meant_by(e.one))
      for (const auto& [g, j] : meant_by(e.other)) {
        all.excluded[all.levels.pair(f, i, g, j)] = true;
        all.excluded[all.levels.pair(g, j, f, i)] = true;
      }
  return all;
}

}  // namespace

bool go_together(std::size_t f, std::size_t i, std::size_t g, std::size_t j) {
  static const Pairs all = make_excluded();
  return !all.excluded[all.levels.pair(f, i, g, j)];
}

}  // namespace pf
