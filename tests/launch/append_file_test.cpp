#include "launch/append_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "core/error.h"
#include "tests/launch/full_disk.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

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
