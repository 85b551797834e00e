// Numbers about a step, the same on every rank. Every rank calls, whether it has anything to add or
// not.
#pragma once

#include <cstdint>
#include <vector>

#include "models/transformer.h"

namespace pf {

// The sum over all ranks of what one micro-batch's head gave.
double loss_over_mesh(const Mesh& mesh, const Statistics& statistics);

// Sums over the micro-batches of a step and over all ranks.
struct StepStatistics {
  double loss = 0, balance_loss = 0, z_loss = 0;
  std::vector<int> moe_layers;                     // their numbers, in the whole model
  std::vector<std::vector<double>> expert_counts;  // of each: choices that went to each expert
  std::vector<double> dropped;  // of each: the share of them beyond a capacity; empty without one
  int signal = 0;               // that asked a rank to end
};
StepStatistics over_mesh(const Mesh& mesh, const MoeLayers& moe,
                         std::span<const Statistics> micro_batches, int signal);

// The sum over all ranks of [1, experts] by MoE layer, of those that a rank has.
std::vector<std::vector<double>> layers_over_mesh(const Mesh& mesh, const MoeLayers& moe,
                                                  const std::map<int, Tensor>& layers);

// The sums over all replicas; the ranks of one have the same values.
std::vector<double> sum_over_replicas(const Mesh& mesh, const std::vector<double>& values);

// The largest of each over all ranks.
std::vector<std::int64_t> largest_over_mesh(const Mesh& mesh,
                                            const std::vector<std::int64_t>& values);

// The logits [vocabulary] of token `token` of each sequence of `batch`, of which the head gave this
// rank [tokens / cp, vocabulary / tp], or nothing where it is on another stage: the same on all
// ranks of tp, cp and pp.
std::vector<std::vector<double>> logits_of_token(const Mesh& mesh, const Tensor& logits,
                                                 const Batch& batch, std::int64_t token,
                                                 std::int64_t vocabulary);

}  // namespace pf
