#include "launch/token_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

const TokenDescription some{"bytes", 256, 226, 12, 3, 200, true};

std::string message(const TemporaryFolder& here) {
  try {
    read_token_description(here.path("a"));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TokenFiles, ADescriptionIsReadAsItWasWritten) {
  const TemporaryFolder here;
  here.write("a.json", to_json(some));
  EXPECT_EQ(read_token_description(here.path("a")), some);
  EXPECT_EQ(here.read("a.json"),
            "{\"version\":1,\"tokenizer\":\"bytes\",\"vocabulary\":256,\"largest_id\":226,"
            "\"end_id\":12,\"documents\":3,\"tokens\":200,\"mask\":true}\n");
}

TEST(TokenFiles, WithoutADescriptionTheTokensAreForeign) {
  const TemporaryFolder here;
  EXPECT_EQ(read_token_description(here.path("a")), std::nullopt);
  EXPECT_EQ(read_token_description(here.path("nowhere/a")), std::nullopt);
}

TEST(TokenFiles, EachValueOutOfRangeIsNamed) {
  struct Wrong {
    std::string from, to, fact;
  };
  const std::vector<Wrong> all{
      {"\"version\":1", "\"version\":2", "version: found 2, wanted an integer, 1 to 1"},
      {"\"version\":1,", "", "version: is missing"},
      {"\"bytes\"", "\"\"", "tokenizer: found \"\""},
      {"\"bytes\"", "7", "tokenizer: found 7"},
      {"256", "0", "vocabulary: found 0, wanted an integer, 1 to 2147483647"},
      {"256", "2147483648", "vocabulary: found 2147483648"},
      {"226", "256", "largest_id: found 256, wanted an integer, 0 to 255"},
      {"226", "-1", "largest_id: found -1"},
      {"226", "1.0", "largest_id: found 1.0"},
      {":12,", ":256,", "end_id: found 256"},
      {":3,", ":0,", "documents: found 0"},
      {":200,", ":0,", "tokens: found 0"},
      {":200,", ":9223372036854775808,", "tokens: found 9223372036854775808"},
      {"true", "1", "mask: found 1, wanted true or false"},
      {"{", "[", "is not a JSON object"},
  };
  for (const Wrong& wrong : all) {
    const TemporaryFolder here;
    std::string text = to_json(some);
    text.replace(text.find(wrong.from), wrong.from.size(), wrong.to);
    here.write("a.json", text);
    EXPECT_NE(message(here).find(here.path("a.json") + ": " + wrong.fact), std::string::npos)
        << wrong.fact << " is not in: " << message(here);
  }
}

TEST(TokenFiles, ADescriptionThatIsAFolderIsAnError) {
  const TemporaryFolder here;
  std::filesystem::create_directory(here.path("a.json"));
  EXPECT_NE(message(here).find("a.json: is not a regular file"), std::string::npos)
      << message(here);
}

TEST(TokenFiles, AMaskHasABitATokenFromTheLowestOn) {
  const std::vector<std::uint8_t> mask{0b00000101, 0b00000010};
  std::vector<std::uint64_t> targets;
  for (std::uint64_t t = 0; t < 16; ++t)
    if (is_target(mask, t)) targets.push_back(t);
  EXPECT_EQ(targets, (std::vector<std::uint64_t>{0, 2, 9}));
  EXPECT_EQ(mask_bytes(0), 0u);
  EXPECT_EQ(mask_bytes(8), 1u);
  EXPECT_EQ(mask_bytes(9), 2u);
}

}  // namespace
}  // namespace pf
