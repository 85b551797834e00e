// The thread of a process that writes its part of checkpoints, while its ranks go on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/checkpoint_files.h"

namespace pf {

// One piece of work at a time: ranks agree on the next one after they have all seen is_done().
// Made before any rank pins its threads, so that this one may run anywhere.
class CheckpointWriter {
 public:
  // Of a process with ranks first_rank, ...; its part has this number.
  CheckpointWriter(int part, int first_rank, int ranks);
  // Gives up what is under way.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // A rank's pieces of FOLDER/part-NUMBER.h5, which must stay as they are until is_done(); once all
  // ranks of the process have called, the writing begins.
  void write(const std::string& folder, std::vector<SavedPiece> pieces);
  // `work` on this thread; one rank of the process calls.
  void run(std::function<void()> work);
  // A rank ends early: gives up what is under way, waits for that, and does nothing any more.
  void abandon();

  // False from write() or run() on until it has ended.
  bool is_done() const { return is_done_; }
  // What it ended with: empty, or why it failed.
  const std::string& failure() const { return failure_; }
  const PartFile& part() const { return written_; }
  // Whether a rank is the process's first, which tells the others of both.
  bool speaks_for(int rank) const { return rank == first_rank_; }

 private:
  void start(std::function<void()> work);
  void loop();

  int part_, first_rank_, ranks_, given_ = 0;
  std::vector<SavedPiece> pieces_;  // of the ranks that have called
  PartFile written_;
  std::string failure_;
  std::atomic<bool> is_done_ = true, is_given_up_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;  // to be begun
  bool is_working_ = false, ends_ = false;
  std::thread thread_;
};

}  // namespace pf
