// A configuration's model on random tokens, with its layout and on one rank.
#pragma once

#include <string>

#include "launch/config.h"
#include "models/prove.h"

namespace pf {

Recipe recipe_of(const config::Config& config, DType type = DType::f64);
// A global batch: functions of run.seed, with targets that count unevenly. No data are read.
Samples samples_of(const config::Config& config);

// What training on one rank is.
config::Config on_one_rank(config::Config config);

// On thread ranks.
Descent descend(const config::Config& config, DType type = DType::f64, int steps = 3);

// How far a layout is from one rank, or why it ended.
struct Proof {
  Difference worst;
  std::string error;

  bool holds() const { return error.empty() && worst.distance < proof_bound; }
  // Whether it fails by more than ten times what one rank differs from itself.
  bool is_beyond(const Difference& rounding) const;
  std::string text() const;  // "3.1e-15  gradient of head, step 2"
};
Proof prove(const config::Config& config, const Descent& one_rank);
// How far one rank is from itself with other last bits in its weights: what a model makes of
// rounding, which no layout can undercut.
Difference rounding_of(const config::Config& config, const Descent& one_rank);
// "one rank with other last bits in its weights: 1.4e-09 from itself, so ..."
std::string rounding_text(const Proof& proof, const Difference& rounding);
// With the optimizers' steps of launch/prove_optimizers.h and, unless checkpoint.every is 0, the
// checkpoints of launch/prove_checkpoint.h.
Proof prove(const config::Config& config);

}  // namespace pf
