// How far experts keep to one kind of text: what each domain of the data chooses.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "models/transformer.h"

namespace pf {

// What the tokens of one domain chose in one MoE layer.
struct LayerChoices {
  int layer = 0;
  std::vector<double> counts;  // of each expert
  double scores = 0;           // sum of the chosen experts' scores, which sum to 1 over all
};

// The choices of one domain, added up over evaluated micro-batches: those of tokens whose target
// counts. Scores and choices are the router's own: a bias, or groups, decides what is chosen but
// is in no score, and evaluation drops nothing.
class DomainChoices {
 public:
  // What this rank's part of a micro-batch left behind.
  void add(const Statistics& micro_batch);
  // Of all ranks, by MoE layer. All ranks call it.
  std::vector<LayerChoices> over_mesh(const Mesh& mesh, const MoeLayers& moe) const;

 private:
  std::map<int, Tensor> counts_, scores_;  // f64, by layer
};

// How the domains share the experts of one layer (Qiu et al. 2025). All by domain;
// zeros where a domain has no tokens.
struct Specialisation {
  int layer = 0;
  std::vector<std::vector<double>> share;    // of the domain's choices, by expert; sums to 1
  std::vector<double> score;                 // a token's chosen scores, summed: their mean
  std::vector<std::vector<double>> overlap;  // with each domain: see overlap_of()

  double largest(std::size_t domain) const;  // share
};
// `domains`: of each its choices, of the same layers, `top_k` by a token.
std::vector<Specialisation> specialisation(const std::vector<std::vector<LayerChoices>>& domains,
                                           std::int64_t top_k);

// How many of the `top_k` experts that one domain chooses most (ties: the lower number; never one
// without choices) are among those of the other, over top_k. Domains that choose independently of
// each other give top_k / experts in the mean, and the same choices 1.
double overlap_of(const std::vector<double>& counts, const std::vector<double>& other,
                  std::int64_t top_k);

}  // namespace pf
