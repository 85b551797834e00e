#include "launch/json_document.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace pf {
namespace {

std::string message(const std::string& line) {
  try {
    parse_document(line);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(JsonDocument, HasATextOrAPromptAndAnAnswer) {
  const JsonDocument text = parse_document(R"( {"text": "a\"\u00e9\n\f"} )");
  EXPECT_EQ(text.text, "a\"é\n\f");
  EXPECT_EQ(text.prompt, "");
  const JsonDocument pair = parse_document("{\"answer\":\"two\",\"prompt\":\"one\"}\r");
  EXPECT_EQ(pair.text, "two");
  EXPECT_EQ(pair.prompt, "one");
  EXPECT_EQ(parse_document(R"({"prompt":"","answer":"two"})").text, "two");
}

TEST(JsonDocument, IgnoresOtherKeysAndTheSameOnesFurtherIn) {
  EXPECT_EQ(parse_document(R"({"id":7,"text":"a","more":{"text":1,"b":[{"answer":null}]},"x":"y",
                               "f":1.5,"n":-1,"t":true})")
                .text,
            "a");
}

TEST(JsonDocument, WhatIsWrongIsSaid) {
  struct Wrong {
    std::string line, fact;
  };
  const std::vector<Wrong> all{
      {"nonsense", "byte 2: no JSON: syntax error while parsing value - invalid literal"},
      {"{\"text\":\"a\"", "byte 12: no JSON: "},
      {"{\"text\":\"a\"} {}", "no JSON: "},
      {"{\"text\":\"\xff\"}", "ill-formed UTF-8"},
      {R"({"text":"\ud800"})", "surrogate"},
      {"{\"text\":\"a\tb\"}", "control character U+0009"},
      {"[1]", "found a list, wanted an object"},
      {"7", "found a number, wanted an object"},
      {"\"text\"", "found a string, wanted an object"},
      {"null", "found null, wanted an object"},
      {"{}", "found none of these keys"},
      {R"({"txt":"a"})", "found none of these keys"},
      {R"({"text":1})", "found a number for \"text\""},
      {R"({"text":null})", "found null for \"text\""},
      {R"({"text":["a"]})", "found a list for \"text\""},
      {R"({"prompt":"a","answer":{}})", "found an object for \"answer\""},
      {R"({"prompt":true,"answer":"a"})", "found true for \"prompt\""},
      {R"({"text":""})", "found an empty \"text\""},
      {R"({"prompt":"a","answer":""})", "found an empty \"answer\""},
      {R"({"prompt":"a"})", "found \"prompt\" without \"answer\""},
      {R"({"answer":"a"})", "found \"answer\" without \"prompt\""},
      {R"({"text":"a","prompt":"b"})", "found \"text\" and \"prompt\""},
      {R"({"text":"a","answer":"b"})", "found \"text\" and \"answer\""},
      {R"({"text":"a","text":"b"})", "found \"text\" twice"},
  };
  for (const Wrong& wrong : all)
    EXPECT_NE(message(wrong.line).find(wrong.fact), std::string::npos)
        << wrong.line << ": " << wrong.fact << " is not in: " << message(wrong.line);
}

TEST(JsonDocument, AMessageIsShortAndCanBeShown) {
  const std::string text = message("{\"text\":\"" + std::string(100000, 'x') + "\x1b[2J\xff\"}");
  EXPECT_LT(text.size(), 400u);
  for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~') << int(c);
}

}  // namespace
}  // namespace pf
