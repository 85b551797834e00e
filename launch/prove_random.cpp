#include "launch/prove_random.h"

#include <algorithm>

#include "core/error.h"
#include "launch/prove_layouts.h"
#include "models/context_parallel.h"

namespace pf {
namespace {

constexpr std::size_t open = std::size_t(-1);  // a level that is not chosen yet
constexpr std::uint32_t covering_stream = 1, case_stream = 2, pair_stream = 3;

// Sizes without which nothing runs, lopsided.
config::Config skeleton(const AxisSizes& s, Dice& dice) {
  config::Config config;
  config.mutable_run()->set_seed(dice.below(std::int64_t{1} << 31));
  config::Model& model = *config.mutable_model();
  model.set_vocabulary(23 + dice.below(12));
  model.set_layers(2);
  model.set_hidden(dice.one_of<std::int64_t>({6, 8, 10, 14}));
  model.set_heads(s.tp * (s.tp > 2 ? 1 + dice.below(2) : 2));
  model.set_kv_heads(model.heads());
  model.set_head_dim(dice.one_of<std::int64_t>({2, 4, 6}));
  model.set_ffn(s.tp * (2 + dice.below(3)));
  model.set_init_std(0.3);
  config::Moe& moe = *model.mutable_moe();
  std::int64_t experts = s.ep * (1 + dice.below(3));
  while (experts < 3) experts += s.ep;
  moe.set_experts(experts);
  moe.set_ffn(s.etp * (2 + dice.below(3)));
  moe.mutable_balance()->set_weight(0.7);
  moe.set_routed_scale(dice.one_of<double>({1, 1.5}));
  const std::int64_t unit = length_unit(s.tp, s.cp);
  std::int64_t length = unit * (1 + dice.below(2));
  while (length < 8) length += unit;
  config.mutable_data()->set_sequence(length);
  config::Source& source = *config.mutable_data()->add_sources();
  source.set_name("random");
  source.set_path("none");
  config::Train& train = *config.mutable_train();
  train.set_steps(3);
  train.set_micro_batch(1);
  config.mutable_optimizer()->set_lr(0.1);
  config::Parallel& parallel = *config.mutable_parallel();
  parallel.set_ranks(s.ranks());
  parallel.set_tp(s.tp);
  parallel.set_cp(s.cp);
  parallel.set_etp(s.etp);
  parallel.set_ep(s.ep);
  parallel.set_pp(s.pp);
  return config;
}

// The first factor after the axes says which layers have experts, its last level: none.
bool has_moe(const std::vector<std::size_t>& levels) {
  return levels[axis_factors] + 1 < factors()[axis_factors].levels.size();
}

}  // namespace

RandomCases::Meeting RandomCases::meeting(std::size_t f, std::size_t i, std::size_t g,
                                          std::size_t j) {
  if (f > g) return meeting(g, j, f, i);
  return {std::uint16_t(f), std::uint16_t(i), std::uint16_t(g), std::uint16_t(j)};
}

// Whether a level of f goes with all that are chosen.
bool RandomCases::fit(const Choice& choice, std::size_t f, std::size_t level) {
  for (std::size_t g = 0; g < choice.size(); ++g)
    if (g != f && choice[g] != open && !go_together(f, level, g, choice[g])) return false;
  return true;
}

std::size_t RandomCases::gain(const Choice& choice, std::size_t f, std::size_t level,
                              const std::set<Meeting>& missing) const {
  std::size_t found = 0;
  for (std::size_t g = 0; g < choice.size(); ++g)
    if (g != f && choice[g] != open) found += missing.contains(meeting(f, level, g, choice[g]));
  return found;
}

// The axes that are open, together: those with most pairs that are missing. False if none go with
// what is chosen.
bool RandomCases::choose_axes(Choice& choice, const std::set<Meeting>& missing, Dice& dice) const {
  Choice best;
  std::size_t most = 0, ties = 0;
  for (const Choice& axes : axis_choices()) {
    Choice with = choice;
    bool fits = true;
    for (std::size_t f = 0; f < axis_factors && fits; ++f) {
      fits = (choice[f] == open || choice[f] == axes[f]) && fit(choice, f, axes[f]);
      with[f] = axes[f];
    }
    if (!fits) continue;
    std::size_t found = 0;
    for (std::size_t f = 0; f < axis_factors; ++f) found += gain(with, f, axes[f], missing);
    if (best.empty() || found > most) ties = 0;
    if (!best.empty() && found < most) continue;
    most = found;
    if (dice.below(std::int64_t(++ties)) == 0) best = with;
  }
  if (!best.empty()) choice = best;
  return !best.empty();
}

RandomCases::Choice RandomCases::choice_with(const Meeting* first, const std::set<Meeting>& missing,
                                             Dice& dice) const {
  Choice choice(factors().size(), open);
  if (first != nullptr) {
    choice[first->f] = first->i;
    choice[first->g] = first->j;
  }
  if (!choose_axes(choice, missing, dice)) return {};
  for (std::size_t f = 0; f < choice.size(); ++f) {
    if (choice[f] != open) continue;
    std::size_t best = open, most = 0, ties = 0;
    for (std::size_t level = 0; level < factors()[f].levels.size(); ++level) {
      if (!fit(choice, f, level)) continue;
      const std::size_t found = gain(choice, f, level, missing);
      if (best == open || found > most) ties = 0;
      if (best != open && found < most) continue;
      most = found;
      if (dice.below(std::int64_t(++ties)) == 0) best = level;
    }
    if (best == open) return {};
    choice[f] = best;
  }
  return choice;
}

RandomCases::RandomCases(std::uint64_t seed) : seed_(seed) {
  const std::vector<Factor>& all = factors();
  std::vector<std::pair<std::uint32_t, Meeting>> shuffled;
  const Random random{seed, pair_stream, 0};
  Dice any(Random{0, pair_stream, 1});
  for (std::size_t f = 0; f < all.size(); ++f)
    for (std::size_t g = f + 1; g < all.size(); ++g)
      for (std::size_t i = 0; i < all[f].levels.size(); ++i)
        for (std::size_t j = 0; j < all[g].levels.size(); ++j) {
          const Meeting pair = meeting(f, i, g, j);
          if (!go_together(f, i, g, j) || choice_with(&pair, {}, any).empty()) continue;
          legal_.push_back(pair);
          shuffled.emplace_back(random.words(legal_.size())[0], pair);
        }
  std::sort(shuffled.begin(), shuffled.end());
  std::set<Meeting> missing(legal_.begin(), legal_.end());
  for (const auto& [order, pair] : shuffled) {
    if (!missing.contains(pair)) continue;
    Dice dice(Random{seed, covering_stream, std::uint32_t(covering_.size())});
    const Choice choice = choice_with(&pair, missing, dice);
    covering_.push_back(choice);
    for (std::size_t f = 0; f < choice.size(); ++f)
      for (std::size_t g = f + 1; g < choice.size(); ++g)
        missing.erase(meeting(f, choice[f], g, choice[g]));
  }
}

RandomCase RandomCases::of(std::int64_t number) const {
  Dice dice(Random{seed_, case_stream + std::uint32_t(number >> 32) * 8, std::uint32_t(number)});
  RandomCase out;
  out.levels = number < std::int64_t(covering_.size()) ? covering_[std::size_t(number)]
                                                       : choice_with(nullptr, {}, dice);
  const AxisSizes axes = axes_of(out.levels);
  Draft draft{skeleton(axes, dice), axes, dice};
  for (std::size_t f = axis_factors; f < factors().size(); ++f) {
    const Level& level = factors()[f].levels[out.levels[f]];
    if (level.set != nullptr) level.set(draft);
    if (!has_moe(out.levels)) draft.model().clear_moe();
  }
  // As a file has it.
  out.config = parse_config(to_yaml(draft.config), "case " + std::to_string(number));
  const std::string why = refusal(out.config);
  require(why.empty(), "case ", number, " (", features_text(out.levels), ") is not legal: ", why);
  return out;
}

std::size_t RandomCases::pairs_in(const std::vector<RandomCase>& cases) const {
  return std::size_t(std::ranges::count_if(legal_, [&](const Meeting& pair) {
    return std::ranges::any_of(cases, [&](const RandomCase& c) {
      return c.levels[pair.f] == pair.i && c.levels[pair.g] == pair.j;
    });
  }));
}

std::string features_text(const std::vector<std::size_t>& levels) {
  std::string text;
  for (std::size_t f = 0; f < levels.size(); ++f)
    text += (f > 0 ? "; " : "") + factors()[f].name + ": " + factors()[f].levels[levels[f]].name;
  return text;
}

}  // namespace pf
