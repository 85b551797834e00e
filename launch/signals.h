// SIGINT, SIGTERM and SIGUSR1 as a request to end after the current step.
#pragma once

#include <atomic>
#include <csignal>
#include <string>
#include <thread>

namespace pf {

// While one lives, SIGINT, SIGTERM and SIGUSR1 (which mpirun passes on, and Slurm sends before a
// time limit when asked to) are only remembered, also where they were ignored (a shell does that
// for background jobs). A second SIGINT ends the process at once, by its default action; within 0.2
// seconds of the first it counts as the same one, since timeout and mpirun may deliver it twice.
// They reach a thread of the scope's own: this thread and those that it starts have them blocked,
// since a handler's frame may overwrite what code that runs there keeps below its stack. Old
// handlers and the mask come back with the destructor, on the same thread. Signals belong to the
// process, not to a rank: only one may live at a time.
class SignalScope {
 public:
  SignalScope();
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  sigset_t old_mask_{};
  std::atomic<bool> has_ended_{false};
  std::thread receiver_;
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
  struct sigaction old_user_ {};
};

// The signal that came since the scope began, or 0. Any thread may ask.
int pending_signal();

// "SIGINT", "SIGTERM", "SIGUSR1", or "signal 7".
std::string signal_name(int signal);

}  // namespace pf
