// Random cases for proofs: first those that bring features together which had not met, then any.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "launch/config.h"
#include "launch/prove_features.h"

namespace pf {

struct RandomCase {
  std::vector<std::size_t> levels;  // by factor
  config::Config config;            // one that training takes
};

// Case n of a seed is a function of both.
class RandomCases {
 public:
  explicit RandomCases(std::uint64_t seed);

  RandomCase of(std::int64_t number) const;

  // Pairs of levels that can meet in a case, and those of them that meet in one of these.
  std::size_t legal_pairs() const { return legal_.size(); }
  std::size_t pairs_in(const std::vector<RandomCase>& cases) const;

 private:
  struct Meeting {  // of two levels; f < g
    std::uint16_t f, i, g, j;
    friend bool operator<(const Meeting& a, const Meeting& b) {
      return std::tie(a.f, a.i, a.g, a.j) < std::tie(b.f, b.i, b.g, b.j);
    }
  };
  using Choice = std::vector<std::size_t>;

  static Meeting meeting(std::size_t f, std::size_t i, std::size_t g, std::size_t j);
  static bool fit(const Choice& choice, std::size_t f, std::size_t level);
  Choice choice_with(const Meeting* first, const std::set<Meeting>& missing, Dice& dice) const;
  std::size_t gain(const Choice& choice, std::size_t f, std::size_t level,
                   const std::set<Meeting>& missing) const;
  bool choose_axes(Choice& choice, const std::set<Meeting>& missing, Dice& dice) const;

  std::uint64_t seed_;
  std::vector<Meeting> legal_;
  std::vector<Choice> covering_;
};

// "tp: 2; cp: 2; ..."; of each factor its level.
std::string features_text(const std::vector<std::size_t>& levels);

}  // namespace pf
