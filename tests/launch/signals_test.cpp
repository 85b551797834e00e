#include "launch/signals.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace pf {
namespace {

constexpr unsigned longer_than_one_signal_us = 250000;

// To the process, as a terminal does, until the scope's thread has had it.
void send(int signal) {
  kill(getpid(), signal);
  for (int i = 0; i < 5000 && pending_signal() == 0; ++i) usleep(1000);
  usleep(20000);
}

using Handler = void (*)(int);

Handler handler_of(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler;
}

void ignore(int) {}

TEST(Signals, OneIsRememberedUntilTheNextScope) {
  {
    const SignalScope scope;
    EXPECT_EQ(pending_signal(), 0);
    send(SIGTERM);
    EXPECT_EQ(pending_signal(), SIGTERM);
  }
  EXPECT_EQ(pending_signal(), SIGTERM);
  const SignalScope scope;
  EXPECT_EQ(pending_signal(), 0);
}

TEST(Signals, OldHandlersComeBack) {
  const Handler before = std::signal(SIGINT, ignore);
  { const SignalScope scope; }
  EXPECT_EQ(handler_of(SIGINT), &ignore);
  std::signal(SIGINT, before);
}

TEST(Signals, AnIgnoredSignalIsHandledAllTheSame) {
  const Handler before = std::signal(SIGINT, SIG_IGN);
  {
    const SignalScope scope;
    send(SIGINT);
    EXPECT_EQ(pending_signal(), SIGINT);
  }
  EXPECT_EQ(handler_of(SIGINT), SIG_IGN);
  std::signal(SIGINT, before);
}

TEST(Signals, AnInterruptThatIsDeliveredTwiceCountsOnce) {
  const SignalScope scope;
  send(SIGINT);
  send(SIGINT);
  EXPECT_EQ(pending_signal(), SIGINT);
}

TEST(Signals, AnyNumberOfTerminationsCountsOnce) {
  const SignalScope scope;
  send(SIGINT);
  usleep(longer_than_one_signal_us);
  send(SIGTERM);
  send(SIGTERM);
  EXPECT_EQ(pending_signal(), SIGINT);
}

TEST(SignalsDeathTest, ASecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const SignalScope scope;
        send(SIGINT);
        usleep(longer_than_one_signal_us);
        send(SIGINT);
        _exit(0);
      },
      testing::KilledBySignal(SIGINT), "");
}

// A handler's frame on a stack that generated code uses below its end has cost a run.
TEST(Signals, NoThreadThatComputesIsInterrupted) {
  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  {
    const SignalScope scope;
    std::thread([] {
      sigset_t mask;
      pthread_sigmask(SIG_SETMASK, nullptr, &mask);
      for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) EXPECT_TRUE(sigismember(&mask, signal));
    }).join();
    send(SIGUSR1);
    EXPECT_EQ(pending_signal(), SIGUSR1);
  }
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1})
    EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal));
}

TEST(Signals, NamesAreThoseOfTheSystem) {
  EXPECT_EQ(signal_name(SIGINT), "SIGINT");
  EXPECT_EQ(signal_name(SIGTERM), "SIGTERM");
  EXPECT_EQ(signal_name(SIGUSR1), "SIGUSR1");
  EXPECT_EQ(signal_name(SIGHUP), "signal 1");
}

}  // namespace
}  // namespace pf
