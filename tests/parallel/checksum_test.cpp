#include "parallel/checksum.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/tensors.h"

namespace pf {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// The value of no bytes is in the tests of xxHash itself.
TEST(Checksum, IsThatOfXxh128sum) {
  EXPECT_EQ(checksum_of({}), "99aa06d3014798d86001c324468d497f");
  const std::string text(100000, 'a');
  Checksum checksum;
  checksum.add(bytes_of(text).first(33));
  checksum.add(bytes_of(text).subspan(33));
  EXPECT_EQ(checksum.text(), checksum_of(bytes_of(text)));
}

TEST(Checksum, LinesAreReadOnlyAsTheyAreWritten) {
  const std::vector<FileChecksum> files{{checksum_of({}), "a.h5"},
                                        {checksum_of(bytes_of("b")), "b c.h5"}};
  const std::string lines = checksum_lines(files);
  EXPECT_EQ(checksum_lines(parse_checksum_lines(lines, "sums")), lines);
  const auto refused = [](std::string text, const char* line) {
    expect_error([&] { parse_checksum_lines(text, "sums"); }, {"sums: line ", line, "is damaged"});
  };
  refused(lines.substr(0, lines.size() - 1), "2");
  refused(lines + '\n', "3");
  refused(lines.substr(1), "1");
  std::string other = lines;
  other[0] = 'A';
  refused(other, "1");
  other = lines;
  other[33] = '*';
  refused(other, "1");
}

}  // namespace
}  // namespace pf
