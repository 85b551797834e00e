#include "launch/signals.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace pf {
namespace {

constexpr unsigned longer_than_one_signal_us = 250000;

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
    raise(SIGTERM);
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
    raise(SIGINT);
    EXPECT_EQ(pending_signal(), SIGINT);
  }
  EXPECT_EQ(handler_of(SIGINT), SIG_IGN);
  std::signal(SIGINT, before);
}

TEST(Signals, AnInterruptThatIsDeliveredTwiceCountsOnce) {
  const SignalScope scope;
  raise(SIGINT);
  raise(SIGINT);
  EXPECT_EQ(pending_signal(), SIGINT);
}

TEST(Signals, AnyNumberOfTerminationsCountsOnce) {
  const SignalScope scope;
  raise(SIGINT);
  usleep(longer_than_one_signal_us);
  raise(SIGTERM);
  raise(SIGTERM);
  EXPECT_EQ(pending_signal(), SIGINT);
}

TEST(SignalsDeathTest, ASecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const SignalScope scope;
        raise(SIGINT);
        usleep(longer_than_one_signal_us);
        raise(SIGINT);
        _exit(0);
      },
      testing::KilledBySignal(SIGINT), "");
}

TEST(Signals, NamesAreThoseOfTheSystem) {
  EXPECT_EQ(signal_name(SIGINT), "SIGINT");
  EXPECT_EQ(signal_name(SIGTERM), "SIGTERM");
  EXPECT_EQ(signal_name(SIGHUP), "signal 1");
}

}  // namespace
}  // namespace pf
