#include "launch/run_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "core/error.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

std::string error_of_making(const std::string& folder) {
  try {
    make_run_folder(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(RunFolder, IsMadeWithAllAboveIt) {
  const TemporaryFolder here;
  EXPECT_EQ(make_run_folder(here.path("a/b/c")), "");
  EXPECT_TRUE(fs::is_directory(here.path("a/b/c")));
}

TEST(RunFolder, AnEmptyOneIsKept) {
  const TemporaryFolder here;
  EXPECT_EQ(make_run_folder(here.path("run")), "");
  EXPECT_EQ(make_run_folder(here.path("run")), "");
  EXPECT_FALSE(fs::exists(here.path("run.1")));
}

TEST(RunFolder, OneWithFilesIsMovedAsideAndSaysSo) {
  const TemporaryFolder here;
  here.write("run/metrics.jsonl", "first");
  EXPECT_EQ(make_run_folder(here.path("run")),
            here.path("run") + " exists: moved to " + here.path("run.1"));
  EXPECT_EQ(here.read("run.1/metrics.jsonl"), "first");
  EXPECT_TRUE(fs::is_empty(here.path("run")));
}

TEST(RunFolder, TheSmallestFreeNumberIsTaken) {
  const TemporaryFolder here;
  here.write("run/metrics.jsonl", "new");
  here.write("run.1/metrics.jsonl", "old");
  here.write("run.3/metrics.jsonl", "older");
  fs::create_symlink("nowhere", here.path("run.2"));
  make_run_folder(here.path("run"));
  EXPECT_EQ(here.read("run.4/metrics.jsonl"), "new");
  EXPECT_EQ(here.read("run.1/metrics.jsonl"), "old");
  EXPECT_EQ(here.read("run.3/metrics.jsonl"), "older");
}

TEST(RunFolder, ASlashAtTheEndChangesNothing) {
  const TemporaryFolder here;
  here.write("run/metrics.jsonl", "first");
  make_run_folder(here.path("run") + "//");
  EXPECT_EQ(here.read("run.1/metrics.jsonl"), "first");
  EXPECT_TRUE(fs::is_empty(here.path("run")));
}

TEST(RunFolder, AFileInItsPlaceIsAnErrorAndStays) {
  const TemporaryFolder here;
  const std::string path = here.write("run", "a file");
  EXPECT_EQ(error_of_making(path),
            path + ": is not a folder; remove it or choose another run.folder");
  EXPECT_EQ(here.read("run"), "a file");
}

TEST(RunFolder, AnErrorNamesThePathAndTheReason) {
  const TemporaryFolder here;
  const std::string file = here.write("file", "");
  EXPECT_EQ(error_of_making(file + "/run"), file + "/run: can't be made: Not a directory");
  EXPECT_EQ(error_of_making(""), "run.folder is empty; name a folder");
  EXPECT_NE(error_of_making("/proc").find("/proc: exists and can't be moved to /proc.1: "),
            std::string::npos);
}

TEST(RunFolder, ALinkThatLeadsNowhereIsAnError) {
  const TemporaryFolder here;
  fs::create_symlink("nowhere", here.path("run"));
  EXPECT_EQ(error_of_making(here.path("run")).find(here.path("run") + ": can't be made: "), 0u);
}

}  // namespace
}  // namespace pf
