#include "launch/stored_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "tests/launch/config_text.h"
#include "tests/launch/index_files.h"

namespace pf {
namespace {

std::set<std::uint64_t> positions(const Row& row) {
  std::set<std::uint64_t> all;
  for (const Range& range : row.ranges())
    for (std::uint64_t p = range.begin; p < range.end; ++p) all.insert(p);
  return all;
}

TokenDescription description_of(const std::vector<std::vector<int>>& documents) {
  return {.tokenizer = "bytes",
          .vocabulary = 256,
          .largest_id = 255,
          .end_id = 12,
          .documents = std::int64_t(documents.size()),
          .tokens = std::int64_t(tokens_in(documents))};
}

std::string message(const std::string& prefix, std::int64_t vocabulary = 256) {
  return error_of([&] { StoredTokens(prefix, 0, vocabulary); });
}

TEST(StoredTokens, HoldOutWholeDocumentsEverywhereInTheFile) {
  const TemporaryFolder here;
  const auto documents = counting_documents(20000, 50000);
  write_index<std::uint16_t>(here, "a", 8, documents);
  for (const double share : {0.02, 0.3}) {
    const StoredTokens tokens(here.path("a"), share, 65536);
    const std::set<std::uint64_t> training = positions(tokens.split().training);
    const std::set<std::uint64_t> heldout = positions(tokens.split().heldout);
    const auto all = double(tokens_in(documents));
    EXPECT_EQ(double(training.size() + heldout.size()), all);
    EXPECT_NEAR(double(heldout.size()) / all, share, 0.1 * share);
    std::uint64_t begin = 0, out = 0;
    for (const auto& document : documents) {
      const auto in = std::uint64_t(
          std::distance(heldout.lower_bound(begin), heldout.lower_bound(begin + document.size())));
      EXPECT_TRUE(in == 0 || in == document.size()) << begin;
      out += in > 0 ? 1 : 0;
      begin += document.size();
    }
    EXPECT_EQ(tokens.split().heldout_documents, out);
    EXPECT_EQ(tokens.split().documents, 20000u);
    // Of each tenth of the file about a tenth.
    for (int tenth = 0; tenth < 10; ++tenth) {
      const auto from = std::uint64_t(tenth * all / 10), to = std::uint64_t((tenth + 1) * all / 10);
      const auto in = std::distance(heldout.lower_bound(from), heldout.lower_bound(to));
      EXPECT_NEAR(double(in), share * all / 10, 0.2 * share * all / 10) << tenth;
    }
  }
}

TEST(StoredTokens, WithoutAShareAllAreForTraining) {
  const TemporaryFolder here;
  const auto documents = counting_documents(5, 256);
  write_index<std::uint8_t>(here, "a", 1, documents);
  const StoredTokens tokens(here.path("a"), 0, 256);
  EXPECT_EQ(tokens.split().training.ranges(), (std::vector<Range>{{0, tokens_in(documents)}}));
  EXPECT_EQ(tokens.split().heldout.size(), 0u);
}

TEST(StoredTokens, ADocumentLongerThanAPartIsHeldOutAsAWholeOrNotAtAll) {
  const TemporaryFolder here;
  std::vector<std::vector<int>> documents;
  for (int d = 0; d < 40; ++d) documents.emplace_back(std::size_t(300 + 17 * d), d);
  write_index<std::uint8_t>(here, "a", 1, documents);
  const StoredTokens tokens(here.path("a"), 0.4, 256);
  std::vector<std::int32_t> ids(tokens_in(documents));
  tokens.read(0, ids);
  std::set<std::int32_t> training, heldout;
  for (const std::uint64_t p : positions(tokens.split().training)) training.insert(ids[p]);
  for (const std::uint64_t p : positions(tokens.split().heldout)) heldout.insert(ids[p]);
  EXPECT_EQ(training.size() + heldout.size(), 40u);
  EXPECT_GT(heldout.size(), 5u);
}

TEST(StoredTokens, FewDocumentsOfOneLengthAreHeldOutByTheirShareToo) {
  const TemporaryFolder here;
  write_index<std::uint8_t>(here, "a", 1, std::vector<std::vector<int>>(400, {1, 2, 3, 4, 5}));
  EXPECT_EQ(StoredTokens(here.path("a"), 0.02, 256).split().heldout_documents, 8u);
}

TEST(StoredTokens, SayWhereDocumentsBegin) {
  const TemporaryFolder here;
  write_index<std::uint16_t>(here, "a", 8, {{1, 2}, {}, {3, 4, 5}, {6}});
  const StoredTokens tokens(here.path("a"), 0, 256);
  EXPECT_EQ(tokens.documents_in({0, 6}), (std::vector<std::uint64_t>{0, 2, 5}));
  EXPECT_EQ(tokens.documents_in({1, 5}), (std::vector<std::uint64_t>{2}));
}

TEST(StoredTokens, AnIdOutsideTheVocabularyIsNamedWhenItIsRead) {
  const TemporaryFolder here;
  write_index<std::int32_t>(here, "a", 4, {{1, 2}, {3, -7, 5}, {70000}});
  const StoredTokens tokens(here.path("a"), 0, 256);
  std::vector<std::int32_t> ids(3);
  tokens.read(0, ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(error_of([&] { tokens.read(2, ids); }),
            here.path("a") +
                ".bin: token 3 (in document 1) has id -7; model.vocabulary=256 allows "
                "0 to 255");
  EXPECT_EQ(error_of([&] { tokens.read(4, std::span(ids).first(2)); }),
            here.path("a") +
                ".bin: token 5 (in document 2) has id 70000; model.vocabulary=256 "
                "allows 0 to 255");
}

TEST(StoredTokens, WithADescriptionASmallVocabularyIsRefusedAtTheStart) {
  const TemporaryFolder here;
  const auto documents = counting_documents(50, 256);
  write_index<std::uint8_t>(here, "a", 1, documents);
  here.write("a.json", to_json(description_of(documents)));
  EXPECT_EQ(message(here.path("a")), "no error");
  EXPECT_EQ(message(here.path("a"), 255),
            here.path("a") +
                ".json: largest_id is 255, but model.vocabulary=255; wanted a "
                "vocabulary of at least 256");
}

TEST(StoredTokens, ADescriptionOrAMaskOfOtherTokensIsRefused) {
  const TemporaryFolder here;
  const auto documents = counting_documents(50, 256);
  write_index<std::uint8_t>(here, "a", 1, documents);
  TokenDescription other = description_of(documents);
  other.tokens += 1;
  here.write("a.json", to_json(other));
  EXPECT_EQ(message(here.path("a")), here.path("a") + ".json: tokens: found " +
                                         std::to_string(other.tokens) + ", but " + here.path("a") +
                                         ".idx has " + std::to_string(other.tokens - 1) +
                                         "; write both anew with pentafold data");
  TokenDescription masked = description_of(documents);
  masked.has_mask = true;
  here.write("a.json", to_json(masked));
  EXPECT_NE(message(here.path("a")).find("a.mask"), std::string::npos);
  here.write("a.mask", std::string(mask_bytes(tokens_in(documents)) + 1, '\1'));
  EXPECT_NE(message(here.path("a")).find("a.mask: has 39 bytes"), std::string::npos)
      << message(here.path("a"));
}

TEST(StoredTokens, AMaskSaysWhichTokensAreTargets) {
  const TemporaryFolder here;
  const auto documents = counting_documents(50, 256);
  write_index<std::uint8_t>(here, "a", 1, documents);
  TokenDescription masked = description_of(documents);
  masked.has_mask = true;
  here.write("a.json", to_json(masked));
  std::string mask(mask_bytes(tokens_in(documents)), '\0');
  mask[1] = char(0b10000001);
  here.write("a.mask", mask);
  const StoredTokens tokens(here.path("a"), 0, 256);
  for (std::uint64_t t = 0; t < tokens_in(documents); ++t)
    EXPECT_EQ(tokens.is_target(t), t == 8 || t == 15) << t;
}

}  // namespace
}  // namespace pf
