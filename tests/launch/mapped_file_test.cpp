#include "launch/mapped_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <numeric>
#include <string>

#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

// Pages of files that count as this process's.
std::int64_t mapped_pages() {
  std::int64_t all = 0, resident = 0, shared = 0;
  std::ifstream("/proc/self/statm") >> all >> resident >> shared;
  return shared;
}

TEST(MappedFile, ForgottenBytesTakeNoMemoryAndAreReadAgain) {
  const TemporaryFolder folder;
  std::string text(8 << 20, ' ');
  std::iota(text.begin(), text.end(), char(3));
  const MappedFile file(folder.write("text", text));
  const auto equals = [&] {
    return std::ranges::equal(file.bytes(), text, {}, {}, [](char c) { return std::uint8_t(c); });
  };
  EXPECT_TRUE(equals());
  const std::int64_t touched = mapped_pages(), pages = (8 << 20) / sysconf(_SC_PAGESIZE);
  file.forget(0, file.bytes().size());
  EXPECT_LE(mapped_pages(), touched - pages / 2);
  EXPECT_TRUE(equals());
  file.forget(5'000'001, 10);
  EXPECT_LT(mapped_pages(), touched);
  EXPECT_TRUE(equals());
}

TEST(MappedFile, ACopiedFileHasNothingToForget) {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("text", "short"));
  file.forget(0, 5);
  EXPECT_EQ(file.bytes()[4], 't');
}

}  // namespace
}  // namespace pf
