#include "launch/checkpoint_writer.h"

#include <exception>
#include <iterator>
#include <utility>

namespace pf {

CheckpointWriter::CheckpointWriter(int part, int first_rank, int ranks)
    : part_(part), first_rank_(first_rank), ranks_(ranks), thread_([this] { loop(); }) {}

CheckpointWriter::~CheckpointWriter() {
  abandon();
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointWriter::write(const std::string& folder, std::vector<SavedPiece> pieces) {
  const std::lock_guard lock(mutex_);
  is_done_ = false;
  pieces_.insert(pieces_.end(), std::move_iterator(pieces.begin()),
                 std::move_iterator(pieces.end()));
  if (++given_ < ranks_) return;
  given_ = 0;
  start([this, folder, all = std::exchange(pieces_, {})] {
    written_ = write_part(folder, part_, all, is_given_up_);
  });
}

void CheckpointWriter::run(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  is_done_ = false;
  start(std::move(work));
}

void CheckpointWriter::abandon() {
  is_given_up_ = true;
  std::unique_lock lock(mutex_);
  pieces_.clear();
  work_ = {};
  changed_.wait(lock, [this] { return !is_working_; });
}

void CheckpointWriter::start(std::function<void()> work) {
  if (is_given_up_) return;
  work_ = std::move(work);
  changed_.notify_all();
}

void CheckpointWriter::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ends_ || work_ != nullptr; });
    if (ends_) return;
    std::function<void()> work = std::exchange(work_, {});
    is_working_ = true;
    lock.unlock();
    failure_.clear();
    try {
      work();
    } catch (const std::exception& error) {
      failure_ = error.what();
    }
    work = {};  // what it holds of the ranks
    lock.lock();
    is_working_ = false;
    is_done_ = true;
    changed_.notify_all();
  }
}

}  // namespace pf
