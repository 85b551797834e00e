#include "launch/corpus.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/document_hash.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

// A folder that goes when the test does.
class Folder {
 public:
  Folder() {
    std::string pattern = testing::TempDir() + "corpus-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  std::string path(const std::string& name = "") const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& content) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path(name);
  }

 private:
  fs::path path_;
};

std::span<const std::uint8_t> bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string text_of(const TextTokens& tokens, const Row& row) {
  std::string text;
  for (const Range& range : row.ranges()) {
    std::vector<std::int32_t> ids(range.end - range.begin);
    tokens.read(range.begin, ids);
    text.append(ids.begin(), ids.end());
  }
  return text;
}

std::string training_text(const std::string& path, double share) {
  const TextTokens tokens(path, share);
  return text_of(tokens, tokens.split().training);
}

std::string heldout_text(const std::string& path, double share) {
  const TextTokens tokens(path, share);
  return text_of(tokens, tokens.split().heldout);
}

std::string document(int number) {
  std::string text = "document " + std::to_string(number) + ":";
  for (int i = 0; i < number % 23; ++i) text += " word" + std::to_string(number * i);
  return text + "\n";
}

// Documents of different lengths, and what of them is for training and what is held out.
struct Text {
  std::string all, training, heldout;
};

Text make_text(int documents, double share) {
  Text text;
  for (int i = 0; i < documents; ++i) {
    const std::string with_end = document(i) + "\f";
    text.all += with_end;
    (is_heldout(bytes(document(i)), share) ? text.heldout : text.training) += with_end;
  }
  return text;
}

std::string window(const Corpus& corpus, std::uint64_t index, bool heldout = false) {
  const Window window = heldout ? corpus.heldout_window(index) : corpus.window(index);
  return {window.ids.begin(), window.ids.end()};
}

std::string message(const std::string& path, const CorpusOptions& options) {
  try {
    Corpus corpus(path, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_contains(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
  }
}

TEST(DocumentHash, IsFmix64OfZlibsChecksumAndTheLength) {
  // Python: fmix64(zlib.crc32(d) + (len(d) << 32)), as in launch/corpora.
  EXPECT_EQ(document_hash(bytes("")), 0u);
  EXPECT_EQ(document_hash(bytes("a")), 0x848BB78258C9C835u);
  EXPECT_EQ(document_hash(bytes("The quick brown fox jumps over the lazy dog")),
            0xAFB2751FA11CBB8Eu);
}

TEST(DocumentHash, HoldsOutItsShareOfDocuments) {
  for (const double share : {0.02, 0.5}) {
    int out = 0;
    for (int i = 0; i < 20000; ++i) out += is_heldout(bytes(document(i)), share) ? 1 : 0;
    // Five standard deviations of a binomial count.
    EXPECT_NEAR(out, 20000 * share, 5 * std::sqrt(20000 * share * (1 - share)));
  }
}

TEST(Corpus, SplitsAFileOfDocumentsByTheirHashes) {
  const Folder folder;
  const Text text = make_text(500, 0.1);
  const TextTokens tokens(folder.write("text", text.all), 0.1);
  EXPECT_EQ(text_of(tokens, tokens.split().training), text.training);
  EXPECT_EQ(text_of(tokens, tokens.split().heldout), text.heldout);
  EXPECT_EQ(tokens.split().documents, 500u);
  EXPECT_EQ(tokens.split().heldout_documents,
            std::count(text.heldout.begin(), text.heldout.end(), '\f'));
}

TEST(Corpus, WindowsOverlapByTheOneTargetAndCoverTheTrainingText) {
  const Folder folder;
  const Text text = make_text(500, 0.1);
  const std::string path = folder.write("text", text.all);
  for (const std::uint64_t sequence : {1, 7, 64, 1000}) {
    const Corpus corpus(path, {.sequence = sequence, .heldout_share = 0.1});
    ASSERT_EQ(corpus.windows(), (text.training.size() - 1) / sequence);
    for (std::uint64_t i = 0; i < corpus.windows(); ++i) {
      ASSERT_EQ(window(corpus, i), text.training.substr(i * sequence, sequence + 1));
    }
  }
}

TEST(Corpus, HeldOutDocumentsAreInNoTrainingWindow) {
  const Folder folder;
  std::string all;
  std::set<std::string> heldout;
  for (int i = 0; i < 2000; ++i) {
    all += document(i) + "\f";
    if (is_heldout(bytes(document(i)), 0.05)) heldout.insert("document " + std::to_string(i) + ":");
  }
  ASSERT_GT(heldout.size(), 50u);
  const Corpus corpus(folder.write("text", all), {.sequence = 64, .heldout_share = 0.05});
  for (std::uint64_t i = 0; i < corpus.windows(); ++i) {
    const std::string shown = window(corpus, i);
    for (std::size_t at = shown.find("document "); at != std::string::npos;
         at = shown.find("document ", at + 1)) {
      const std::size_t end = shown.find(':', at);
      const bool is_whole = end != std::string::npos;
      EXPECT_FALSE(is_whole && heldout.count(shown.substr(at, end + 1 - at)) > 0);
    }
  }
}

TEST(Corpus, HeldOutWindowsAreCutAsThePeerCutsThemAndLimited) {
  const Folder folder;
  const Text text = make_text(2000, 0.2);
  const std::string path = folder.write("text", text.all);
  const std::uint64_t all = (text.heldout.size() - 1) / 32;
  const Corpus some(path, {.sequence = 32, .heldout_share = 0.2, .heldout_windows = 5});
  const Corpus most(path, {.sequence = 32, .heldout_share = 0.2, .heldout_windows = all + 100});
  EXPECT_EQ(some.heldout_windows(), 5u);
  EXPECT_EQ(most.heldout_windows(), all);
  for (std::uint64_t i = 0; i < all; ++i) {
    ASSERT_EQ(window(most, i, true), text.heldout.substr(i * 32, 33));
  }
}

TEST(Corpus, TheCorporaScriptPutsHeldOutDocumentsWhereThePeerLooks) {
  if (std::system("python3 -c 'import tarfile' >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "there is no python3";
  }
  const Folder folder;
  const std::string script = folder.write("make.py", R"(
import importlib.machinery, importlib.util, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
loader = importlib.machinery.SourceFileLoader("corpora", sys.argv[1] + "/corpora")
corpora = importlib.util.module_from_spec(importlib.util.spec_from_loader("corpora", loader))
loader.exec_module(corpora)
documents = ["".join(f"größer {i * j} 日本語\n" for j in range(1 + i % 37)) for i in range(3000)]
file, counts = corpora.arrange([d.encode() for d in documents])
open(sys.argv[2], "wb").write(file)
)");
  const std::string path = folder.path("text");
  const std::string command =
      "python3 " + script + " " + PENTAFOLD_SOURCE_DIR + "/launch " + path + " >&2";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const Corpus corpus(path, {});
  const std::uint64_t size = fs::file_size(path);
  EXPECT_EQ(corpus.split().training.size(), size * 98 / 100);
  EXPECT_EQ(corpus.split().training.ranges().size(), 1u);
  EXPECT_EQ(corpus.split().heldout.ranges().size(), 1u);
  EXPECT_GT(corpus.split().heldout_documents, 20u);
}

TEST(Corpus, AFileOfOneDocumentIsCutIntoBlocksAtLineEnds) {
  const Folder folder;
  std::string all;
  for (int i = 0; i < 20000; ++i) all += document(i);
  const Split split = TextTokens(folder.write("text", all), 0.1).split();
  EXPECT_EQ(split.training.size() + split.heldout.size(), all.size());
  EXPECT_GE(split.documents, 512u);
  EXPECT_GT(split.heldout_documents, 0u);
  for (const Row* row : {&split.training, &split.heldout}) {
    for (const Range& range : row->ranges()) EXPECT_EQ(all[range.end - 1], '\n');
  }
}

TEST(Corpus, AFormFeedAtTheEndMakesNoDifferenceToOneDocument) {
  const Folder folder;
  std::string all;
  for (int i = 0; i < 5000; ++i) all += document(i);
  const Corpus plain(folder.write("plain", all), {.heldout_share = 0.3});
  const Corpus ended(folder.write("ended", all + "\f"), {.heldout_share = 0.3});
  EXPECT_EQ(ended.split().documents, plain.split().documents);
  EXPECT_GT(ended.split().documents, 100u);
}

TEST(Corpus, TextWithoutLineEndsIsCutAllTheSame) {
  const Folder folder;
  const Corpus corpus(folder.write("text", std::string(100000, 'x')), {.heldout_share = 0});
  EXPECT_EQ(corpus.split().documents, 98u);
  EXPECT_EQ(corpus.split().training.size(), 100000u);
}

TEST(Corpus, AFolderIsItsFilesInTheOrderOfTheirPaths) {
  const Folder folder;
  folder.write("b", "second");
  folder.write("a/z", "first");
  folder.write("c", std::string(200000, 'c'));  // mapped, not copied
  folder.write(".hidden", "hidden");
  folder.write(".git/x", "hidden");
  folder.write("empty", "");
  folder.write("binary", std::string("\0\1\2", 3));
  const Corpus corpus(folder.path(), {.sequence = 8, .heldout_share = 0});
  EXPECT_EQ(training_text(folder.path(), 0), "first\fsecond\f" + std::string(200000, 'c') + "\f");
  EXPECT_EQ(corpus.split().documents, 3u);
  EXPECT_EQ(window(corpus, 0), "first\fsec");
}

TEST(Corpus, AFolderOfOneFileIsThatFile) {
  const Folder folder;
  const Text text = make_text(300, 0.2);
  folder.write("only", text.all);
  EXPECT_EQ(heldout_text(folder.path(), 0.2), text.heldout);
}

TEST(Corpus, ASmallFileIsReadLikeALargeOne) {
  const Folder folder;
  const Text text = make_text(3000, 0.1);  // above 64 KiB: mapped
  const Text little = make_text(100, 0.1);
  ASSERT_GT(text.all.size(), 64u << 10);
  ASSERT_LT(little.all.size(), 64u << 10);
  std::vector<TextTokens> moved;
  moved.emplace_back(folder.write("large", text.all), 0.1);
  moved.emplace_back(folder.write("small", little.all), 0.1);
  EXPECT_EQ(text_of(moved[0], moved[0].split().training), text.training);
  EXPECT_EQ(text_of(moved[1], moved[1].split().training), little.training);
}

TEST(Corpus, WithNoShareNothingIsHeldOut) {
  const Folder folder;
  const Text text = make_text(100, 0);
  const std::string path = folder.write("text", text.all);
  EXPECT_EQ(training_text(path, 0), text.all);
  EXPECT_EQ(Corpus(path, {.sequence = 8, .heldout_share = 0}).heldout_windows(), 0u);
}

TEST(Corpus, WhatIsMissingEmptyOrTooShortIsSaidWithItsPath) {
  const Folder folder;
  const std::string missing = folder.path("missing");
  expect_contains(message(missing, {}), {missing, "no such file"});
  const std::string empty = folder.write("empty", "");
  expect_contains(message(empty, {}), {empty, "is empty"});
  const std::string brief = folder.write("brief", "twelve bytes");
  expect_contains(message(brief, {.sequence = 12, .heldout_share = 0}),
                  {brief, "12 bytes", "sequence 12", "needs 13"});
  const std::string none = folder.path("none");
  fs::create_directory(none);
  expect_contains(message(none, {}), {none, "none of its 0 files"});
  folder.write("none/binary", std::string(10, '\0'));
  expect_contains(message(none, {}), {none, "none of its 1 files"});
}

TEST(Corpus, WithNothingHeldOutTheErrorSaysWhatToChange) {
  const Folder folder;
  const std::string path = folder.write("text", "one\ftwo\fthree\f");
  expect_contains(message(path, {.sequence = 4, .heldout_share = 1e-9}),
                  {path, "data.heldout_share 1e-09", "0 of 3 documents", "larger share"});
  expect_contains(message(path, {.sequence = 4, .heldout_share = 1}), {path, "share < 1"});
}

TEST(Corpus, AWindowSaysWhereDocumentsBegin) {
  const Folder folder;
  const Corpus marked(folder.write("text", "one\ftwo\fthree\f"),
                      {.sequence = 6, .heldout_share = 0});
  EXPECT_EQ(marked.window(0).starts, (std::vector<std::int64_t>{0, 4}));
  EXPECT_EQ(marked.window(1).starts, (std::vector<std::int64_t>{2}));
  // Blocks of one text go on in the next, unless the next is held out.
  std::string lines;
  for (int i = 0; i < 3000; ++i) lines += document(i);
  const std::string path = folder.write("lines", lines);
  const Corpus whole(path, {.sequence = lines.size() - 1, .heldout_share = 0});
  EXPECT_EQ(whole.window(0).starts, (std::vector<std::int64_t>{}));
  const Row training = TextTokens(path, 0.1).split().training;
  ASSERT_GT(training.ranges().size(), 5u);
  const Corpus cut(path, {.sequence = 20000, .heldout_share = 0.1});
  EXPECT_EQ(cut.window(0).starts.size(), training.part(0, 20001).size() - 1);
}

TEST(Corpus, JsonLinesAreNotTakenForText) {
  const Folder folder;
  expect_contains(message(folder.write("a.jsonl", "{}"), {}), {"a.jsonl", "pentafold data"});
}

TEST(Corpus, AByteNeedsATokenOfItsOwn) {
  const Folder folder;
  expect_contains(message(folder.write("text", "text"), {.vocabulary = 255}),
                  {"text", "model.vocabulary=256", "found 255"});
}

TEST(Corpus, WhatIsNeitherFileNorFolderIsNamed) {
  const Folder folder;
  expect_contains(message("/dev/null", {}), {"/dev/null", "not a regular file"});
  const std::string pipe = folder.path("pipe");  // opening one waits for a writer
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  expect_contains(message(pipe, {}), {pipe, "not a regular file"});
}

TEST(Corpus, AFileThatCantBeReadIsNamed) {
  const Folder folder;
  const std::string path = folder.write("text", "text");
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  chmod(path.c_str(), 0);
  expect_contains(message(path, {}), {path, "can't be opened", "Permission denied"});
}

TEST(Corpus, AWindowThatIsNotThereIsAnError) {
  const Folder folder;
  const Corpus corpus(folder.write("text", make_text(500, 0.1).all),
                      {.sequence = 16, .heldout_share = 0.1});
  EXPECT_THROW(window(corpus, corpus.windows()), Error);
  EXPECT_THROW(window(corpus, corpus.heldout_windows(), true), Error);
}

}  // namespace
}  // namespace pf
