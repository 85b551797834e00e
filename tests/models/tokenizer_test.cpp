#include "models/tokenizer.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace pf {
namespace {

TEST(Tokenizer, OfBytesGivesEachByteItsOwnId) {
  const auto tokenizer = make_tokenizer("bytes");
  std::vector<std::uint8_t> text;
  std::vector<std::int32_t> wanted{-1}, ids{-1};
  for (int byte = 0; byte < 256; ++byte) {
    text.push_back(static_cast<std::uint8_t>(byte));
    wanted.push_back(byte);
  }
  tokenizer->encode(text, ids);
  EXPECT_EQ(ids, wanted);
  EXPECT_EQ(tokenizer->name(), "bytes");
  EXPECT_EQ(tokenizer->vocabulary(), 256);
  EXPECT_EQ(tokenizer->end_id(), 12);
}

TEST(Tokenizer, AnUnknownOneIsNamed) {
  try {
    make_tokenizer("byts");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "tokenizer 'byts' is unknown; bytes is wanted");
  }
}

}  // namespace
}  // namespace pf
