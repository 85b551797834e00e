// Balance losses whose shares are known late: counts over micro-batches that other ranks, or this
// rank later, run.
#pragma once

#include <map>
#include <vector>

#include "models/context.h"

namespace pf {

// The loss of one layer and micro-batch is coefficient * experts / tokens * sum_i f_i P_i, with P_i
// the sum of expert i's scores over the micro-batch's tokens and f_i the share of choices that went
// to expert i, counted over all micro-batches of this step up to the end of the micro-batch's group
// of `group` (Qiu et al. 2025, last form of equation 5, with a buffer over accumulation steps).
// Weighted by tokens, so that uneven micro-batches do not change it. f has no gradient, and
// backward reads it late: forward all micro-batches of a group, bind(), then run backward.
class Balance {
 public:
  // Micro-batch j of a step runs at accumulation step j / dp on replica j mod dp. Either group
  // divides dp or dp divides group; otherwise throws Error.
  Balance(const Mesh& mesh, std::int64_t group);

  // How many accumulation steps must be forwarded before backward.
  std::int64_t steps_together() const;

  // Before the first micro-batch of a step.
  void clear();

  // For layers. The shares [1, experts] of a micro-batch, to be written by bind(); counts [1,
  // experts] is a constant, partial over tp and cp. A second call (recompute) gives the same tensor
  // again.
  Tensor shares(int layer, std::int64_t micro_batch, const Tensor& counts);
  // The loss of it, a scalar whose value bind() writes: factor * dot(score_sums, shares).
  void add_loss(int layer, std::int64_t micro_batch, const Tensor& loss, const Tensor& score_sums,
                double factor);

  // Before backward of `micro_batch`, whose group has gone forward: counts of all groups up to it
  // are summed over the ranks, shares and losses written. The ranks of a stage call it in the same
  // order.
  void bind(std::int64_t micro_batch);

 private:
  struct Entry {
    Tensor counts, shares, loss, score_sums;
    double factor = 0;
  };
  using Key = std::pair<std::int64_t, int>;  // micro-batch, layer

  const Mesh* mesh_;
  std::int64_t group_;
  std::map<Key, Entry> waiting_;
  std::map<Key, Tensor> bound_;   // shares
  std::map<int, Tensor> so_far_;  // by layer: counts of the step's earlier accumulation steps
};

}  // namespace pf
