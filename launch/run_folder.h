// The folder of a run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "launch/config.pb.h"
#include "launch/config_fill.h"
#include "launch/run_lock.h"

namespace pf {

// FOLDER holds metrics.jsonl, config.yaml, event files, lock, and checkpoints/step-00000050, ...
struct RunFolder {
  std::unique_ptr<RunLock> lock;
  std::vector<std::string> checkpoints;  // that the run may go on from, the one to try first first
  std::vector<std::string> lines;        // to be said
};

// Makes run.folder and what is above it, locks it, and finds what run.resume asks to go on from:
//   never  nothing
//   auto   the checkpoints in FOLDER/checkpoints, newest first; there may be none
//   PATH   that folder
// A run that goes on from a checkpoint in its own folder uses the folder as it is, but for what a
// killed run left in FOLDER/checkpoints, *.writing and *.removing, which is removed. Any other
// begins in an empty folder: one that has something is renamed to FOLDER.N, with the smallest free
// N from 1, never one that another run has locked. Throws Error with the place of run.folder or
// run.resume.
RunFolder open_run_folder(const config::Config& config, const Places& places,
                          const RunLockOptions& options = {});

// Renames checkpoints in FOLDER/checkpoints of later steps than `step` to step-NNNNNNNN.M, with the
// smallest free M from 1, and returns a line for each. For a run that goes on from `step`: what is
// later is of another course of the run, or could not be read, and must not be gone on from next.
// To be called once the checkpoint was read, and before metrics of later steps are cut off.
std::vector<std::string> set_later_checkpoints_aside(const std::string& folder, std::int64_t step);

}  // namespace pf
