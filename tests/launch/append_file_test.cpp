#include "launch/append_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

// Files of this process end at `bytes`, as on a disk that is full, until it goes.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit now{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST(AppendFile, KeepsWhatIsThere) {
  const TemporaryFolder here;
  here.write("log", "first\n");
  AppendFile file(here.path("log"));
  EXPECT_EQ(file.append("second\n"), "");
  EXPECT_EQ(here.read("log"), "first\nsecond\n");
}

TEST(AppendFile, HasNoPartOfARecordThatDidNotFit) {
  const TemporaryFolder here;
  AppendFile file(here.path("log"));
  {
    const FullDisk disk(10);
    EXPECT_EQ(file.append("12345\n"), "");
    EXPECT_EQ(file.append("6789012\n"), "File too large");
  }
  EXPECT_EQ(here.read("log"), "12345\n");
  EXPECT_EQ(file.append("3\n"), "");
  EXPECT_EQ(here.read("log"), "12345\n3\n");
}

TEST(AppendFile, SaysWhyItCannotBeWritten) {
  const TemporaryFolder here;
  std::filesystem::create_symlink("/dev/full", here.path("log"));
  AppendFile file(here.path("log"));
  EXPECT_EQ(file.append("x"), "No space left on device");
  EXPECT_THROW(AppendFile("/nowhere/log"), Error);
}

}  // namespace
}  // namespace pf
