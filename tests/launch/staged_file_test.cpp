#include "launch/staged_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/launch/full_disk.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

std::size_t files_in(const TemporaryFolder& here) {
  const std::filesystem::directory_iterator all(here.path());
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

TEST(StagedFile, AppearsWholeWhenItIsPublished) {
  const TemporaryFolder here;
  const std::string large(3 << 20, 'x');
  here.write("a", "old");
  {
    StagedFile file(here.path("a"));
    file.write(std::string_view("first "));
    file.write(large);
    file.write(std::string_view(" last"));
    file.sync();
    EXPECT_EQ(here.read("a"), "old");
    file.publish();
    file.keep();
  }
  EXPECT_TRUE(here.read("a") == "first " + large + " last");
  EXPECT_EQ(files_in(here), 1u);
}

TEST(StagedFile, LeavesNothingUnlessItIsKept) {
  const TemporaryFolder here;
  {
    StagedFile written(here.path("a")), published(here.path("b"));
    for (StagedFile* file : {&written, &published}) {
      file->write(std::string_view("text"));
      file->sync();
    }
    published.publish();
    EXPECT_EQ(here.read("b"), "text");
  }
  EXPECT_EQ(files_in(here), 0u);
}

TEST(StagedFile, SaysWhatTheSystemRefused) {
  const TemporaryFolder here;
  EXPECT_THROW(StagedFile(here.path("nowhere/a")), Error);
  {
    StagedFile file(here.path("a"));
    const FullDisk disk(10);
    file.write(std::string_view("more than ten bytes"));
    try {
      file.sync();
      FAIL();
    } catch (const WriteError& error) {
      EXPECT_EQ(error.what(), here.path("a") + ": can't be written: File too large");
    }
  }
  EXPECT_EQ(files_in(here), 0u);
  std::filesystem::create_directory(here.path("b"));
  StagedFile file(here.path("b"));
  EXPECT_THROW(file.publish(), WriteError);
}

}  // namespace
}  // namespace pf
