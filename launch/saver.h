// When and how a run saves checkpoints: one rank's view.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/checkpoint_writer.h"
#include "launch/config.h"
#include "launch/learner.h"
#include "launch/report.h"

namespace pf {

// All ranks call in the same order what is said to be of all ranks. A checkpoint that can't be
// written is said in a line; training goes on.
class Saver {
 public:
  // `reporter` on rank 0; its metrics last on the disk before a checkpoint is there that knows of
  // their steps.
  Saver(const config::Config& config, const Mesh& mesh, Learner& learner, CheckpointWriter& writer,
        Reporter* reporter);
  ~Saver();  // gives up what is under way
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  // Of all ranks: begins to save the weights as they are after facts.counts["step"] steps, with the
  // facts of rank 0; where checkpoint.async is false, ends that too. One that is under way ends
  // first.
  void save(CheckpointFacts facts);
  // Of all ranks, after each step: goes on with what is under way, without a wait.
  void poll();
  // Of all ranks: waits for what is under way.
  void finish();

  // Empty, or why the last one is not there; the same on all ranks.
  const std::string& failure() const { return failure_; }
  std::int64_t saved_step() const { return saved_step_; }  // of the newest that is; -1: none
  double seconds() const { return seconds_; }              // that it took

 private:
  enum class Phase : std::uint8_t { idle, parts, master };

  bool is_first() const { return mesh_.communicator().rank() == 0; }
  bool some_rank(bool mine) const;
  void begin_master();
  void end(const std::string& failure);

  const config::Config& config_;
  const Mesh& mesh_;
  Learner& learner_;
  CheckpointWriter& writer_;
  Reporter* reporter_;
  std::vector<Tensor> copies_;  // where training goes on
  Phase phase_ = Phase::idle;
  CheckpointFacts facts_;
  std::string folder_, failure_;
  std::string left_;  // what could not be removed
  std::int64_t saved_step_ = -1, bytes_ = 0;
  std::chrono::steady_clock::time_point begin_;
  double seconds_ = 0;
};

// FOLDER/checkpoints
std::string checkpoints_folder(const config::Config& config);

}  // namespace pf
