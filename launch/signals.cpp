#include "launch/signals.h"

#include <ctime>

#include <atomic>
#include <cstdint>

#include "core/error.h"

namespace pf {

namespace {

constexpr std::int64_t same_for_ms = 200;

// The one global: a handler gets nothing but the number, and signals are per process. The first
// signal's time in milliseconds x 256 + its number; 0: none. One word, so that a handler that is
// itself interrupted leaves nothing half done.
std::atomic<std::int64_t> pending{0};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

// Calls only what POSIX allows in a handler.
void remember(int signal) {
  struct timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t ms = std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
  std::int64_t first = 0;
  if (pending.compare_exchange_strong(first, ms * 256 + signal) || signal != SIGINT) return;
  if (ms - first / 256 < same_for_ms) return;
  ::signal(SIGINT, SIG_DFL);
  raise(SIGINT);  // delivered when this handler returns
}

}  // namespace

SignalScope::SignalScope() {
  pending = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;  // no call of a library ends early for it
  sigemptyset(&action.sa_mask);
  require(sigaction(SIGINT, &action, &old_interrupt_) == 0 &&
              sigaction(SIGTERM, &action, &old_terminate_) == 0 &&
              sigaction(SIGUSR1, &action, &old_user_) == 0,
          "signals: SIGINT, SIGTERM and SIGUSR1 can't be handled");
  sigset_t ours;
  sigemptyset(&ours);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&ours, signal);
  pthread_sigmask(SIG_BLOCK, &ours, &old_mask_);
  receiver_ = std::thread([this, ours] {
    pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
    has_ended_.wait(false);
  });
}

SignalScope::~SignalScope() {
  has_ended_ = true;
  has_ended_.notify_one();
  receiver_.join();
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
  sigaction(SIGINT, &old_interrupt_, nullptr);
  sigaction(SIGTERM, &old_terminate_, nullptr);
  sigaction(SIGUSR1, &old_user_, nullptr);
}

int pending_signal() {
  return static_cast<int>(pending.load() % 256);
}

std::string signal_name(int signal) {
  if (signal == SIGINT) return "SIGINT";
  if (signal == SIGTERM) return "SIGTERM";
  if (signal == SIGUSR1) return "SIGUSR1";
  return "signal " + std::to_string(signal);
}

}  // namespace pf
