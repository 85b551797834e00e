// One run at a time in a folder.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace pf {

struct RunLockOptions {
  double beat_s = 10;                                // between signs of life
  double stale_s = 60;                               // without one a run is dead
  std::function<void(const std::string&)> say = {};  // hears why the lock is waited for
  std::string machine = {};  // by which machines are told apart; empty: this start of this kernel
  bool uses_flock = true;    // false: as on a file system that has none
};

// Held by the process of a run that uses FOLDER, in the file FOLDER/lock, which says who holds it
// and since when. A thread changes the file every `beat_s` seconds: its sign of life.
//
// A lock of this machine is decided at once: its holder has the file locked (flock), and the kernel
// gives that up with the process, however it ends. For a lock of another machine, which may see the
// same folder through a network, signs of life decide: it is taken `stale_s` after the last one, by
// the file system's own clock, and a run that starts sooner waits for that, so that a job that was
// moved to another machine does not fail for its own predecessor. Where a file system has no flock
// (ENOLCK, EOPNOTSUPP, ENOSYS), that holds for locks of this machine too.
//
// Several that take a dead one's lock at once: on one machine, flock chooses. Of several machines
// each writes its name, waits for a fifth of beat_s, and has the lock if its name still stands
// there.
//
// Programs that the process starts do not keep the lock. The folder may be renamed meanwhile.
class RunLock {
 public:
  // Of a folder that exists. Throws Error, which names the folder: in use, with the host, the
  // process and since when; or the file can't be made.
  explicit RunLock(const std::string& folder, const RunLockOptions& options = {});
  ~RunLock();  // removes the file, unless it is another's by now
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // Throws Error if the lock is no longer this one's: its file is gone or names another run, which
  // thought this one dead. So ends, before it does harm, a run that was stopped or cut off from its
  // file system for longer than stale_s. Costs next to nothing; any thread may call it.
  void check() const;

 private:
  class Held;
  std::unique_ptr<Held> held_;
};

}  // namespace pf
