// SIGINT and SIGTERM as a request to end after the current step.
#pragma once

#include <csignal>
#include <string>

namespace pf {

// While one lives, SIGINT and SIGTERM are only remembered, also where they were ignored (a shell
// does that for background jobs). A second SIGINT ends the process at once, by its default action;
// within 0.2 seconds of the first it counts as the same one, since timeout and mpirun may deliver
// it twice. Old handlers come back with the destructor. Signals belong to the process, not to a
// rank: only one may live at a time.
class SignalScope {
 public:
  SignalScope();
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

// The signal that came since the scope began, or 0. Any thread may ask.
int pending_signal();

// "SIGINT", "SIGTERM", or "signal 7".
std::string signal_name(int signal);

}  // namespace pf
