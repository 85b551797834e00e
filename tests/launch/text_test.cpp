#include "launch/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <string_view>

namespace pf {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(Text, CountsHaveThreeDigitsAndAUnit) {
  EXPECT_EQ(count_in_words(0), "0");
  EXPECT_EQ(count_in_words(950), "950");
  EXPECT_EQ(count_in_words(0.5), "0.50");
  EXPECT_EQ(count_in_words(12345), "12.3k");
  EXPECT_EQ(count_in_words(4198400), "4.20M");
  EXPECT_EQ(count_in_words(1.05e12), "1.05T");
  EXPECT_EQ(count_in_words(NAN), "nan");
}

TEST(Text, CountsRoundUpIntoTheNextUnit) {
  EXPECT_EQ(count_in_words(999), "999");
  EXPECT_EQ(count_in_words(999.6), "1.00k");
  EXPECT_EQ(count_in_words(999499), "999k");
  EXPECT_EQ(count_in_words(999500), "1.00M");
  EXPECT_EQ(count_in_words(9996), "10.0k");
}

TEST(Text, BytesHaveBinaryUnits) {
  EXPECT_EQ(bytes_in_words(0), "0 B");
  EXPECT_EQ(bytes_in_words(1023), "1023 B");
  EXPECT_EQ(bytes_in_words(1024), "1.0 KiB");
  EXPECT_EQ(bytes_in_words(1288490189), "1.2 GiB");
  EXPECT_EQ(bytes_in_words((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(bytes_in_words(std::numeric_limits<std::int64_t>::max()), "8.0 EiB");
}

TEST(Text, DurationsHaveTwoUnits) {
  EXPECT_EQ(duration_in_words(0), "0s");
  EXPECT_EQ(duration_in_words(0.25), "0.25s");
  EXPECT_EQ(duration_in_words(9.46), "9.5s");
  EXPECT_EQ(duration_in_words(59.4), "59s");
  EXPECT_EQ(duration_in_words(59.6), "1m00s");
  EXPECT_EQ(duration_in_words(245), "4m05s");
  EXPECT_EQ(duration_in_words(3599.7), "1h00m");
  EXPECT_EQ(duration_in_words(3659), "1h01m");
  EXPECT_EQ(duration_in_words(7380), "2h03m");
  EXPECT_EQ(duration_in_words(5.0 * 86400 + 4 * 3600), "5d04h");
}

TEST(Text, ATimeThatIsNotKnownIsAQuestionMark) {
  EXPECT_EQ(duration_in_words(NAN), "?");
  EXPECT_EQ(duration_in_words(infinity), "?");
  EXPECT_EQ(duration_in_words(-1), "?");
}

TEST(Text, CharactersAreCountedInBytesAndInColumns) {
  EXPECT_EQ(first_character("ab").bytes, 1u);
  EXPECT_EQ(first_character("ü!").bytes, 2u);
  EXPECT_EQ(first_character("語").columns, 2);
  EXPECT_EQ(first_character("\u0301").columns, 0);
  EXPECT_EQ(first_character("\U0001F600").bytes, 4u);
}

TEST(Text, WhatIsNotUtf8IsOneByteThatIsNotShown) {
  for (const std::string bytes : {"\x80", "\xC3", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80",
                                  "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xFF", "\xE8\xAA"}) {
    EXPECT_EQ(first_character(bytes).bytes, 1u) << json_string(bytes);
    EXPECT_FALSE(first_character(bytes).is_printable) << json_string(bytes);
  }
}

TEST(Text, ACharacterThatIsCutOffIsNoCharacter) {
  EXPECT_FALSE(first_character(std::string_view("語").substr(0, 2)).is_printable);
}

TEST(Text, WhatSteersATerminalIsNotShown) {
  for (const std::string bytes : {"\x1b", "\n", "\x7f", "\u009b", "\u202e", "\u2028"})
    EXPECT_FALSE(first_character(bytes).is_printable) << json_string(bytes);
  EXPECT_TRUE(first_character("\u00a1").is_printable);
}

TEST(Text, ForeignTextInAMessageIsPrintableAndShort) {
  EXPECT_EQ(printable("größer"), "größer");
  EXPECT_EQ(printable("a\nb\x1b[31m\xff"), "a\\nb\\x1b[31m\\xff");
  EXPECT_EQ(printable("\u2028"), "\\xe2\\x80\\xa8");
  EXPECT_EQ(printable("öööö", 3), "ööö...");
  EXPECT_EQ(printable(std::string(1000, 'x')), std::string(200, 'x') + "...");
}

TEST(Text, WhatNoTextFileHasIsFound) {
  EXPECT_EQ(first_foreign_byte("a\tö\r\n語"), std::string_view("a\tö\r\n語").size());
  EXPECT_EQ(first_foreign_byte("ab\x04 c"), 2u);
  EXPECT_EQ(first_foreign_byte("ö\xff"), 2u);
  EXPECT_EQ(first_foreign_byte(std::string_view("\0", 1)), 0u);
}

TEST(Text, JsonStringsAreEscaped) {
  EXPECT_EQ(json_string("a\"b\\c\n\x01"), R"("a\"b\\c\u000a\u0001")");
  EXPECT_EQ(json_string("日本"), "\"日本\"");
  EXPECT_EQ(json_string("a\xff"), "\"a\uFFFD\"");
}

TEST(Text, JsonNumbersReadBackTheSame) {
  for (const double value : {0.1, 1.0 / 3, 1e-300, 1.7976931348623157e308, -2.5})
    EXPECT_EQ(std::stod(json_number(value)), value);
  EXPECT_EQ(json_number(0.1), "0.10000000000000001");
  EXPECT_EQ(json_number(3), "3");
  EXPECT_EQ(json_number(NAN), "null");
  EXPECT_EQ(json_number(-infinity), "null");
}

}  // namespace
}  // namespace pf
