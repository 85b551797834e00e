// Training that one layout saves and another goes on with.
#pragma once

#include "launch/config.h"
#include "launch/prove_case.h"
#include "launch/prove_layouts.h"
#include "models/prove.h"

namespace pf {

// Another layout of the model, of 1 to 8 ranks, that goes on from what `config` saves: drawn by
// run.seed and the axes.
config::Config layout_to_go_on(const config::Config& config);

// On thread ranks, with the files of a checkpoint in a folder that goes with the scope: a descent
// as that of descend(), of which the last step is of layout_to_go_on(); and AdamW and Muon on the
// gradients of launch/prove_optimizers.h, likewise. What goes on has no numbers of its own. The
// descent is compared with `one_rank`, the optimizers' weights and states with one rank that nobody
// interrupts.
Proof prove_going_on(const config::Config& config, const Descent& one_rank);

// Prints a line: how far the layouts are from one rank then, or which is the worst that differs.
// Returns the exit code: 0, 1 if one differs, 128 + the signal that ended it.
int prove_going_on(const LayoutsOfModel& layouts, const Descent& one_rank);

}  // namespace pf
