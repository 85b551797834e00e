#include "launch/convert.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/corpus.h"
#include "launch/documents.h"
#include "launch/indexed.h"
#include "launch/signals.h"
#include "launch/staged_file.h"
#include "tests/launch/doubling_tokenizer.h"
#include "tests/launch/full_disk.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

const auto bytes_tokenizer = make_tokenizer("bytes");

class Convert : public testing::Test {
 protected:
  std::optional<Converted> convert_with(ConvertOptions options, const Tokenizer& tokenizer) const {
    options.prefix = here.path("out");
    return convert(options, tokenizer, [](const ConvertProgress&) {});
  }
  Converted bytes_of(const std::vector<std::string>& inputs, ConvertOptions options = {}) const {
    options.inputs = inputs;
    options.replaces = true;
    return convert_with(options, *bytes_tokenizer).value();
  }
  std::string message(const std::vector<std::string>& inputs, ConvertOptions options = {},
                      const Tokenizer& tokenizer = *bytes_tokenizer) const {
    options.inputs = inputs;
    try {
      convert_with(options, tokenizer);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::set<std::string> outputs() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(here.path()))
      if (entry.path().filename().string().starts_with("out"))
        names.insert(entry.path().filename().string());
    return names;
  }
  std::string text_of_corpus(const std::string& path) const {
    const Corpus corpus(path, {.sequence = 1, .heldout_share = 0});
    std::string text;
    for (std::uint64_t i = 0; i < corpus.windows(); ++i) {
      const std::vector<std::int32_t> ids = corpus.window(i).ids;
      text.append(ids.begin() + (i == 0 ? 0 : 1), ids.end());
    }
    return text;
  }
  // Documents as strings, through the reader.
  std::vector<std::string> documents() const {
    const IndexedTokens tokens(here.path("out"));
    std::vector<std::string> all;
    for (std::uint64_t d = 0; d < tokens.documents(); ++d) {
      std::vector<std::int64_t> ids(tokens.begin_of(d + 1) - tokens.begin_of(d));
      tokens.read(tokens.begin_of(d), ids);
      all.emplace_back(ids.begin(), ids.end());
    }
    return all;
  }
  // A digit for each token: 1 if it counts.
  std::string mask() const {
    const std::string bytes = here.read("out.mask");
    const std::span mask(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    std::string digits;
    for (std::uint64_t t = 0; t < 8 * mask.size(); ++t) digits += is_target(mask, t) ? '1' : '0';
    return digits;
  }

  TemporaryFolder here;
  SignalScope signals;
};

// Lines and documents of many lengths, some empty. Where they are compared, it is by ==: googletest
// takes memory quadratic in the lines to show how two texts differ.
std::string lopsided(int documents, const std::string& end) {
  std::string text;
  for (int i = 0; i < documents; ++i) {
    for (int j = 0; j < i * i % 37; ++j) text += "größer " + std::to_string(i * j) + "\n";
    text += end;
  }
  return text;
}

using Strings = std::vector<std::string>;

TEST_F(Convert, ATextsDocumentsEndWithTheirFormFeeds) {
  bytes_of({here.write("a", "one\f\ftwo\n\fthree")});
  EXPECT_EQ(documents(), (Strings{"one\f", "\f", "two\n\f", "three"}));
  EXPECT_EQ(read_token_description(here.path("out")),
            (TokenDescription{"bytes", 256, 'w', 12, 4, 15, false}));
  EXPECT_EQ(outputs(), (std::set<std::string>{"out.bin", "out.idx", "out.json"}));
}

TEST_F(Convert, TokensOfTextAreThoseThatTrainingReads) {
  const std::string with = here.write("with", lopsided(3000, "\f"));
  const std::string without = here.write("without", lopsided(9000, ""));
  const std::string ended = here.write("ended", lopsided(900, "") + "\f");
  here.write("folder/b/c", lopsided(100, "\f"));
  here.write("folder/a", lopsided(500, ""));
  here.write("folder/.hidden", "hidden");
  here.write("folder/empty", "");
  here.write("folder/binary", std::string("a\0b", 3));
  here.write("alone/text", lopsided(100, "\f"));
  here.write("alone/empty", "");
  for (const std::string& path : {with, without, ended, here.path("folder"), here.path("alone")}) {
    for (const std::uint64_t piece : {1u, 4097u, 4u << 20}) {
      const Converted made = bytes_of({path}, {.threads = 2, .piece_bytes = piece});
      EXPECT_TRUE(here.read("out.bin") == text_of_corpus(path)) << path;
      const Corpus corpus(path, {.sequence = 1, .heldout_share = 0});
      EXPECT_EQ(std::uint64_t(made.description.documents), corpus.split().documents) << path;
      EXPECT_EQ(IndexedTokens(here.path("out")).documents(), corpus.split().documents) << path;
      EXPECT_EQ(made.targets, std::uint64_t(made.description.tokens));
    }
  }
}

TEST_F(Convert, BlocksOfATextBeginAndEndWhereTrainingCutsThem) {
  const std::string text = lopsided(9000, "");
  bytes_of({here.write("a", text)}, {.threads = 2, .piece_bytes = 5000});
  const std::span rest(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  const FileRule rule = rule_of(rest);
  Strings wanted;
  for (std::size_t at = 0; at < text.size(); at += wanted.back().size())
    wanted.push_back(text.substr(at, first_document(rest.subspan(at), rule).text.size()));
  EXPECT_TRUE(documents() == wanted);
}

TEST_F(Convert, InputsFollowEachOther) {
  here.write("folder/b.jsonl", "{\"text\":\"json\"}\n");
  here.write("folder/a.txt", "text");
  bytes_of({here.write("z", "last\nfirst\n"), here.path("folder"), here.path("z")});
  EXPECT_EQ(documents(), (Strings{"last\nfirst\n", "text\f", "json\f", "last\nfirst\n"}));
}

TEST_F(Convert, LinesOfJsonEndWithAFormFeedAndMayHideAPrompt) {
  const std::string text = here.write("a.txt", "123456789\f1\f");
  const std::string json = here.write("b.jsonl",
                                      "{\"text\":\"a\\fb\"}\n\n \t\r\n"
                                      "{\"prompt\":\"what?\",\"answer\":\"that\"}\r\n"
                                      "{\"prompt\":\"\",\"answer\":\"x\"}");
  const Converted made = bytes_of({text, json}, {.piece_bytes = 1});
  EXPECT_EQ(documents(), (Strings{"123456789\f", "1\f", "a\fb\f", "what?that\f", "x\f"}));
  const std::string targets = std::string(16, '1') + "00000" + std::string(7, '1');
  EXPECT_EQ(mask(), targets + "0000");
  EXPECT_EQ(made.targets, 23u);
  EXPECT_TRUE(made.description.has_mask);
  EXPECT_EQ(fs::file_size(here.path("out.mask")), mask_bytes(28));
}

TEST_F(Convert, AMaskThatBeginsLateCountsAllBefore) {
  const std::string text = here.write("a.txt", std::string(100000, 'x'));
  std::string lines;
  for (int i = 1; i < 200; ++i)
    lines += "{\"prompt\":\"" + std::string(std::size_t(i), 'p') + "\",\"answer\":\"yes\"}\n";
  bytes_of({text, here.write("b.jsonl", lines), text}, {.threads = 2, .piece_bytes = 3000});
  std::string wanted(100000, '1');
  for (int i = 1; i < 200; ++i) wanted += std::string(std::size_t(i), '0') + "1111";
  wanted += std::string(100000, '1');
  wanted.resize((wanted.size() + 7) / 8 * 8, '0');
  EXPECT_TRUE(mask() == wanted);
}

TEST_F(Convert, WithoutAMaskAnOldOneGoes) {
  const std::string json = here.write("a.jsonl", "{\"prompt\":\"a\",\"answer\":\"b\"}\n");
  bytes_of({json});
  EXPECT_TRUE(outputs().contains("out.mask"));
  bytes_of({here.write("a.txt", "text")});
  EXPECT_FALSE(outputs().contains("out.mask"));
}

TEST_F(Convert, TheNumberOfThreadsAndTheSizeOfPiecesChangeNothing) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += i % 3 == 0 ? R"({"prompt":"p)" + std::to_string(i) + R"(","answer":"yes"})" + "\n"
                        : R"({"text":"t)" + std::string(std::size_t(i % 91), 'x') + "\"}\n\n";
  const std::vector<std::string> inputs{here.write("a.txt", lopsided(2000, "\f")),
                                        here.write("b.jsonl", lines),
                                        here.write("c.txt", lopsided(5000, ""))};
  bytes_of(inputs);
  Strings wanted;
  for (const char* name : {"out.bin", "out.idx", "out.json", "out.mask"})
    wanted.push_back(here.read(name));
  for (const int threads : {1, 2, 5}) {
    for (const std::uint64_t piece : {100u, 10000u}) {
      bytes_of(inputs, {.threads = threads, .piece_bytes = piece});
      Strings found;
      for (const char* name : {"out.bin", "out.idx", "out.json", "out.mask"})
        found.push_back(here.read(name));
      EXPECT_TRUE(found == wanted) << threads << " threads";
    }
  }
}

TEST_F(Convert, TokensAreAsWideAsTheVocabularyNeeds) {
  const std::string text = here.write("a", "ab\fc\f");
  struct Width {
    std::int64_t vocabulary;
    std::uint8_t bytes, type;
  };
  for (const Width width : {Width{256, 1, 1}, Width{257, 2, 8}, Width{65536, 2, 8},
                            Width{65537, 4, 4}, Width{2147483647, 4, 4}}) {
    const Doubling tokenizer(width.vocabulary);
    const ConvertOptions options{.inputs = {text}, .replaces = true, .piece_bytes = 1};
    const TokenDescription made = convert_with(options, tokenizer).value().description;
    const std::int64_t last = width.vocabulary - 1;
    const IndexedTokens tokens(here.path("out"));
    std::vector<std::int64_t> ids(8);
    ASSERT_EQ(tokens.tokens(), ids.size());
    tokens.read(0, ids);
    EXPECT_EQ(ids,
              (std::vector<std::int64_t>{'a', last - 'a', 'b', last - 'b', 0, 'c', last - 'c', 0}));
    EXPECT_EQ(tokens.begin_of(1), 5u);
    EXPECT_EQ(here.read("out.bin").size(), 8u * width.bytes);
    EXPECT_EQ(std::uint8_t(here.read("out.idx")[17]), width.type);
    EXPECT_EQ(made, (TokenDescription{"doubling", width.vocabulary,
                                      std::max<std::int64_t>(last - 'a', 'c'), 0, 2, 8, false}));
  }
}

TEST_F(Convert, AnIdThatIsNotTheTokenizersIsAnError) {
  const std::string text = here.write("a.txt", "first\fab");
  EXPECT_EQ(message({text}, {}, Doubling(300, 250)),
            text + ": byte 0: the tokenizer doubling gave the id 366; its vocabulary has 300");
  EXPECT_EQ(message({text}, {}, Doubling(300, -98)),
            text + ": byte 6: the tokenizer doubling gave the id -1; its vocabulary has 300");
  EXPECT_EQ(outputs(), std::set<std::string>{});
}

TEST_F(Convert, ADocumentThatTheFormatCantHoldIsAnError) {
  const std::string text = here.write("a.txt", "1234\f123456\f12");
  const std::string json = here.write("a.jsonl", "\n{\"text\":\"1234567\"}\n");
  EXPECT_EQ(message({text}, {.longest_document = 7}), "");
  EXPECT_EQ(message({text}, {.replaces = true, .longest_document = 6}),
            text + ": byte 5: a document of 7 tokens; at most 6 fit into the format");
  EXPECT_EQ(message({json}, {.replaces = true, .longest_document = 7}),
            json + ":2: a document of 8 tokens; at most 7 fit into the format");
}

TEST_F(Convert, TheFirstErrorOfTheInputIsReportedWhateverTheThreads) {
  std::string lines;
  for (int i = 1; i <= 4000; ++i)
    lines += i % 1000 == 777 ? "oh\n"
                             : "{\"text\":\"" + std::string(std::size_t(i % 50), 'x') + "y\"}\n";
  const std::string path = here.write("a.jsonl", lines);
  for (const int threads : {1, 2, 5})
    EXPECT_EQ(
        message({path}, {.threads = threads, .piece_bytes = 200}).find(path + ":777: byte 1:"), 0u);
  EXPECT_EQ(outputs(), std::set<std::string>{});
}

TEST_F(Convert, AnInputWithoutDocumentsIsNamed) {
  const std::string text = here.write("a.txt", "text");
  const std::string blank = here.write("b.jsonl", "\n \n\r\n");
  const std::string wanted = blank + ": has no documents; a line of JSON for each is wanted";
  EXPECT_EQ(message({text, blank, text}), wanted);
  EXPECT_EQ(message({text, blank, text}, {.piece_bytes = 1}), wanted);
  EXPECT_EQ(outputs(), std::set<std::string>{});
}

TEST_F(Convert, WhatIsReadIsNotWritten) {
  const std::string path = here.write("out.json", "text");
  EXPECT_EQ(message({path}, {.replaces = true}),
            path + ": is read and would be written; another --output is wanted");
  EXPECT_EQ(here.read("out.json"), "text");
}

TEST_F(Convert, AFullDiskLeavesNothingBehindAndWhatWasThereAlone) {
  const std::string text = here.write("a.txt", lopsided(3000, "\f"));
  for (const rlim_t bytes : {rlim_t{100}, rlim_t{fs::file_size(text) - 1}}) {
    const FullDisk disk(bytes);
    EXPECT_THROW(
        convert_with({.inputs = {text}, .threads = 2, .piece_bytes = 1000}, *bytes_tokenizer),
        WriteError);
    EXPECT_EQ(outputs(), std::set<std::string>{});
  }
  bytes_of({here.write("b.txt", "old")});
  {
    const FullDisk disk(100);
    EXPECT_THROW(bytes_of({text}), WriteError);
  }
  EXPECT_EQ(here.read("out.bin"), "old");
  EXPECT_EQ(IndexedTokens(here.path("out")).tokens(), 3u);
  EXPECT_EQ(outputs(), (std::set<std::string>{"out.bin", "out.idx", "out.json"}));
}

TEST_F(Convert, ASignalLeavesNothingBehind) {
  const std::string text = here.write("a.txt", lopsided(3000, "\f"));
  int calls = 0;
  const auto interrupt = [&](const ConvertProgress& progress) {
    if (++calls != 3) return;
    EXPECT_LT(progress.bytes, progress.all_bytes);
    kill(getpid(), SIGTERM);
    for (int i = 0; i < 5000 && pending_signal() == 0; ++i) usleep(1000);
  };
  const ConvertOptions options{
      .inputs = {text}, .prefix = here.path("out"), .threads = 2, .piece_bytes = 1000};
  EXPECT_FALSE(convert(options, *bytes_tokenizer, interrupt));
  EXPECT_EQ(pending_signal(), SIGTERM);
  EXPECT_LT(calls, 1000);
  EXPECT_EQ(outputs(), std::set<std::string>{});
}

TEST_F(Convert, ProgressCountsBytesAndDocuments) {
  const std::string text = here.write("a.txt", "one\ftwo\fthree");
  ConvertProgress last;
  std::uint64_t calls = 0;
  convert({.inputs = {text}, .prefix = here.path("out"), .piece_bytes = 1}, *bytes_tokenizer,
          [&](const ConvertProgress& now) {
            EXPECT_GE(now.bytes, last.bytes);
            last = now;
            ++calls;
          });
  EXPECT_EQ(last.bytes, 13u);
  EXPECT_EQ(last.all_bytes, 13u);
  EXPECT_EQ(last.documents, 3u);
  EXPECT_EQ(calls, 4u);
}

}  // namespace
}  // namespace pf
