#include "launch/run_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "launch/lock_file.h"
#include "tests/launch/reporting.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

RunLockOptions quick(std::string machine = {}, bool uses_flock = true) {
  return {.beat_s = 0.05, .stale_s = 0.5, .machine = std::move(machine), .uses_flock = uses_flock};
}

std::string error_of_locking(const std::string& folder, const RunLockOptions& options = quick()) {
  try {
    const RunLock lock(folder, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string error_of_checking(const RunLock& lock) {
  try {
    lock.check();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// "no error" after ten seconds without one.
std::string first_error_of_checking(const RunLock& lock) {
  std::string error;
  for (int i = 0; i < 2000 && (error = error_of_checking(lock)) == "no error"; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return error;
}

std::string holder_of(const TemporaryFolder& folder) {
  return lock_holder_of(folder.read("lock")).machine;
}

// The file of a run on another machine, written so many seconds ago.
void write_foreign(const TemporaryFolder& folder, int seconds_ago) {
  const std::string path = folder.write("lock", to_text({.host = "node7",
                                                         .process = "1234",
                                                         .since = "2026-11-30 09:15:02 UTC",
                                                         .machine = "another",
                                                         .id = "abc"}));
  fs::last_write_time(path, fs::last_write_time(path) - std::chrono::seconds(seconds_ago));
}

// A process that has the lock, lets a shell do the command, and waits; killed with the test.
class Holder {
 public:
  explicit Holder(const std::string& folder, const char* command = "") {
    std::array<int, 2> ready{};
    EXPECT_EQ(pipe(ready.data()), 0);
    pid_ = fork();
    if (pid_ == 0) {
      const RunLock lock(folder, quick());
      [[maybe_unused]] const int code = std::system(command);
      [[maybe_unused]] const auto told = write(ready[1], "x", 1);
      for (;;) pause();
    }
    char byte = 0;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() { kill(); }

  pid_t pid() const { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }
  void kill() {
    if (pid_ <= 0) return;
    signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

TEST(RunLock, IsAFileThatSaysWhoHasItAndGoesAtTheEnd) {
  const TemporaryFolder folder;
  {
    const RunLock lock(folder.path(), quick());
    const LockHolder holder = lock_holder_of(folder.read("lock"));
    EXPECT_EQ(holder.process, std::to_string(getpid()));
    EXPECT_TRUE(std::regex_match(holder.since, std::regex(R"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC)")))
        << holder.since;
    EXPECT_NE(holder.host, "");
    EXPECT_NE(holder.machine, "");
    EXPECT_EQ(error_of_checking(lock), "no error");
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  EXPECT_EQ(error_of_locking(folder.path()), "no error");
}

TEST(RunLock, IsRefusedToASecondOfTheSameProcess) {
  const TemporaryFolder folder;
  const RunLock lock(folder.path(), quick());
  const LockHolder holder = lock_holder_of(folder.read("lock"));
  EXPECT_EQ(error_of_locking(folder.path()),
            folder.path() + ": is in use by process " + std::to_string(getpid()) + " on " +
                holder.host + ", since " + holder.since +
                "; wait until that run ends, or choose another run.folder");
  EXPECT_EQ(error_of_checking(lock), "no error");
}

TEST(RunLock, IsRefusedWhileAnotherProcessHasItAndNotOnceThatWasKilled) {
  const TemporaryFolder folder;
  Holder holder(folder.path());
  EXPECT_TRUE(contains(error_of_locking(folder.path()),
                       "is in use by process " + std::to_string(holder.pid()) + " on "));
  holder.kill();
  EXPECT_TRUE(fs::exists(folder.path("lock")));
  RunLockOptions never_stale = quick();
  never_stale.stale_s = 1e9;
  EXPECT_EQ(error_of_locking(folder.path(), never_stale), "no error");
}

// Stopped is not dead.
TEST(RunLock, OfAStoppedProcessOfThisMachineStaysItsOwn) {
  const TemporaryFolder folder;
  const Holder holder(folder.path());
  holder.signal(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_TRUE(contains(error_of_locking(folder.path()), "is in use by process "));
}

TEST(RunLock, IsNotKeptByProgramsThatWereStarted) {
  const TemporaryFolder folder;
  Holder(folder.path(), "sleep 5 &").kill();
  RunLockOptions never_stale = quick();
  never_stale.stale_s = 1e9;
  EXPECT_EQ(error_of_locking(folder.path(), never_stale), "no error");
}

TEST(RunLock, OfAnotherMachineIsTakenAtOnceWhenItIsOld) {
  const TemporaryFolder folder;
  write_foreign(folder, 5);
  std::vector<std::string> said;
  RunLockOptions options = quick();
  options.say = [&](const std::string& line) { said.push_back(line); };
  const RunLock lock(folder.path(), options);
  EXPECT_EQ(lock_holder_of(folder.read("lock")).process, std::to_string(getpid()));
  EXPECT_TRUE(said.empty());
}

TEST(RunLock, OfAnotherMachineIsTakenAfterAWaitThatIsSaidWhenItIsYoung) {
  const TemporaryFolder folder;
  write_foreign(folder, 0);
  std::vector<std::string> said;
  RunLockOptions options = quick();
  options.say = [&](const std::string& line) { said.push_back(line); };
  const RunLock lock(folder.path(), options);
  EXPECT_EQ(lock_holder_of(folder.read("lock")).process, std::to_string(getpid()));
  ASSERT_EQ(said.size(), 1u);
  EXPECT_TRUE(std::regex_match(
      said[0], std::regex(".*: process 1234 on node7 used it [0-9.]+s ago; waiting up to "
                          "[0-9.]+s for a sign of life")))
      << said[0];
}

TEST(RunLock, OfAnotherMachineThatBeatsIsRefused) {
  for (const bool uses_flock : {true, false}) {
    const TemporaryFolder folder;
    const RunLock theirs(folder.path(), quick("another", uses_flock));
    EXPECT_TRUE(contains(error_of_locking(folder.path(), quick("this", uses_flock)),
                         "is in use by process "));
    EXPECT_EQ(error_of_checking(theirs), "no error");
  }
}

TEST(RunLock, OfAnotherMachineThatEndsMeanwhileIsTaken) {
  const TemporaryFolder folder;
  write_foreign(folder, 0);
  RunLockOptions options = quick();
  options.stale_s = 1e9;
  options.say = [&](const std::string&) { fs::remove(folder.path("lock")); };
  EXPECT_EQ(error_of_locking(folder.path(), options), "no error");
}

TEST(RunLock, WithoutFlockSignsOfLifeDecideOnOneMachineToo) {
  const TemporaryFolder folder;
  {
    const RunLock lock(folder.path(), quick("this", false));
    EXPECT_TRUE(
        contains(error_of_locking(folder.path(), quick("this", false)), "is in use by process "));
  }
  write_foreign(folder, 0);
  EXPECT_EQ(error_of_locking(folder.path(), quick("another", false)), "no error");
}

TEST(RunLock, AFileThatNamesNobodyIsWaitedForAndTaken) {
  for (const std::string text : {"", "machine \n\n\x01", "id"}) {
    const TemporaryFolder folder;
    folder.write("lock", text);
    EXPECT_EQ(error_of_locking(folder.path()), "no error") << text;
  }
}

// Each counts as on a machine of its own, or as on one, or without flock.
TEST(RunLock, OfManyThatTakeADeadOnesOneGetsIt) {
  for (const int kind : {0, 1, 2}) {
    const TemporaryFolder folder;
    write_foreign(folder, 100);
    constexpr int many = 8;
    std::vector<std::unique_ptr<RunLock>> locks(many);
    std::vector<std::thread> threads;
    for (int i = 0; i < many; ++i)
      threads.emplace_back([&, i] {
        RunLockOptions options = quick(kind == 1 ? "one" : std::to_string(i), kind < 2);
        options.beat_s = 0.25;
        try {
          locks[std::size_t(i)] = std::make_unique<RunLock>(folder.path(), options);
        } catch (const Error&) {
        }
      });
    for (std::thread& thread : threads) thread.join();
    int held = 0;
    for (const auto& lock : locks) held += lock ? 1 : 0;
    EXPECT_EQ(held, 1) << kind;
  }
}

TEST(RunLock, OfManyThatMakeOneOneGetsIt) {
  for (const bool uses_flock : {true, false}) {
    const TemporaryFolder folder;
    constexpr int many = 8;
    std::vector<std::unique_ptr<RunLock>> locks(many);
    std::vector<std::thread> threads;
    for (int i = 0; i < many; ++i)
      threads.emplace_back([&, i] {
        try {
          locks[std::size_t(i)] =
              std::make_unique<RunLock>(folder.path(), quick(std::to_string(i), uses_flock));
        } catch (const Error&) {
        }
      });
    for (std::thread& thread : threads) thread.join();
    int held = 0;
    for (const auto& lock : locks) held += lock ? 1 : 0;
    EXPECT_EQ(held, 1) << uses_flock;
  }
}

TEST(RunLock, OneWhoseNameIsWrittenOverAtOnceDoesNotHaveIt) {
  const TemporaryFolder folder;
  write_foreign(folder, 100);
  std::thread other([&] {
    while (holder_of(folder) == "another") std::this_thread::yield();
    write_foreign(folder, 0);
  });
  RunLockOptions options = quick();
  options.beat_s = 5;  // a second for the other
  EXPECT_TRUE(contains(error_of_locking(folder.path(), options),
                       "is in use by process 1234 on node7, since 2026-11-30 09:15:02 UTC"));
  other.join();
}

TEST(RunLock, OfManyThatComeAndGoOneAtATimeHasIt) {
  const TemporaryFolder folder;
  std::atomic<int> held = 0, together = 0, refused = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        try {
          const RunLock lock(folder.path(), quick());
          if (++held > 1) ++together;
          std::this_thread::yield();
          --held;
        } catch (const Error&) {
          ++refused;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, 0);
  EXPECT_LT(refused, 400);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(RunLock, ALostOneIsAnErrorAtTheNextCheckAndLeftAlone) {
  const TemporaryFolder folder;
  auto lock = std::make_unique<RunLock>(folder.path(), quick());
  write_foreign(folder, 0);
  const std::string error = first_error_of_checking(*lock);
  EXPECT_EQ(error, folder.path() +
                       ": process 1234 on node7 has taken it, since this run gave no sign of life "
                       "for more than 0.50s (stopped, or cut off from the file system); this run "
                       "ends");
  EXPECT_EQ(error_of_checking(*lock), error);
  lock.reset();
  EXPECT_EQ(holder_of(folder), "another");
}

TEST(RunLock, AfterALongStopACheckLooksBeforeTheNextBeat) {
  const TemporaryFolder folder;
  RunLockOptions options = quick();
  options.beat_s = 1e6;
  options.stale_s = 0.01;
  const auto lock = std::make_unique<RunLock>(folder.path(), options);
  write_foreign(folder, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(contains(error_of_checking(*lock), "process 1234 on node7 has taken it"));
}

TEST(RunLock, AFileThatWasRemovedIsALostLock) {
  const TemporaryFolder folder;
  const RunLock lock(folder.path(), quick());
  fs::remove(folder.path("lock"));
  EXPECT_EQ(first_error_of_checking(lock),
            folder.path() + "/lock: is gone, so another run may use the folder; this run ends");
}

TEST(RunLock, FollowsItsFolder) {
  const TemporaryFolder here;
  fs::create_directory(here.path("a"));
  {
    const RunLock lock(here.path("a"), quick());
    fs::rename(here.path("a"), here.path("b"));
    EXPECT_TRUE(contains(error_of_locking(here.path("b")), "is in use by process "));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(error_of_checking(lock), "no error");
  }
  EXPECT_TRUE(fs::is_empty(here.path("b")));
}

TEST(RunLock, IsOfTheFolderThatHasTheNameInTheEnd) {
  const TemporaryFolder here;
  fs::create_directory(here.path("a"));
  write_foreign(here, 0);
  fs::rename(here.path("lock"), here.path("a/lock"));
  RunLockOptions options = quick();
  options.say = [&](const std::string&) {
    fs::rename(here.path("a"), here.path("b"));
    fs::create_directory(here.path("a"));
  };
  const RunLock lock(here.path("a"), options);
  EXPECT_TRUE(fs::exists(here.path("a/lock")));
  EXPECT_FALSE(fs::exists(here.path("b/lock")));
}

TEST(RunLock, AFolderInWhichNothingCanBeMadeIsAnErrorThatNamesTheFile) {
  const TemporaryFolder here;
  EXPECT_EQ(error_of_locking(here.path("nowhere")),
            here.path("nowhere") + ": can't be opened: No such file or directory");
  EXPECT_TRUE(contains(error_of_locking("/proc"), "/proc/lock: can't be made: "));
  fs::create_directory(here.path("lock"));
  EXPECT_EQ(error_of_locking(here.path()), here.path() + "/lock: can't be opened: Is a directory");
  fs::remove(here.path("lock"));
  fs::create_symlink("nowhere", here.path("lock"));
  EXPECT_EQ(error_of_locking(here.path()),
            here.path() + "/lock: can't be opened: Too many levels of symbolic links");
}

}  // namespace
}  // namespace pf
