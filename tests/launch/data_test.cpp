#include "launch/data.h"

#include <gtest/gtest.h>

#include <map>

#include "core/error.h"
#include "tests/launch/config_text.h"
#include "tests/launch/index_files.h"

namespace pf {
namespace {

config::Config config_of(const Overrides& overrides, Places* places = nullptr) {
  return parse_config(small_run, "run.yaml", overrides, {.places = places});
}

std::string source(const TemporaryFolder& here, const std::string& name, double weight = 1) {
  return "{name: " + name + ", path: " + here.path(name) + ", weight: " + std::to_string(weight) +
         "}";
}

std::string error_of_data(const Overrides& overrides) {
  Places places;
  const config::Config config = config_of(overrides, &places);
  return error_of([&] { Data(config, places); });
}

// Each id of b.bin is 20 below that of a.bin.
TEST(Data, BlendsTextAndStoredTokensByWeight) {
  const TemporaryFolder here;
  here.write("a", std::string(500, 'a'));
  write_index<std::uint16_t>(here, "b", 8, counting_documents(100, 50));
  const Data data(
      config_of({"data.sources=[" + source(here, "a", 3) + ", " + source(here, "b") + "]",
                 "data.heldout_share=0", "data.sequence=8"}));
  int texts = 0;
  for (std::uint64_t i = 0; i < 1024; ++i) {
    const Windows one = data.samples(i, 1);
    const bool is_text = one.ids[0] == 'a';
    texts += is_text ? 1 : 0;
    for (std::size_t t = 0; t < one.ids.size() && !is_text; ++t)
      EXPECT_EQ(one.targets[t], (one.ids[t] + 1) % 50);
  }
  EXPECT_EQ(texts, 768);
  EXPECT_TRUE(data.is_text(0));
  EXPECT_FALSE(data.is_text(1));
}

TEST(Data, AHundredSourcesShowEachWindowOnceAnEpochAndFindAnySampleAtOnce) {
  const TemporaryFolder here;
  std::string sources;
  for (int s = 0; s < 100; ++s) {
    const std::string name = "s" + std::to_string(s);
    here.write(name, std::string(std::size_t(4 * (1 + s % 5) + 1), char(' ' + s % 90)));
    sources += (s == 0 ? "" : ", ") + source(here, name);
  }
  const Data data(
      config_of({"data.sources=[" + sources + "]", "data.heldout_share=0", "data.sequence=4"}));
  ASSERT_EQ(data.sources(), 100u);
  const Windows far = data.samples(1'000'000'000, 2), again = data.samples(1'000'000'001, 1);
  EXPECT_EQ(std::vector(far.ids.begin() + 4, far.ids.end()), again.ids);
}

TEST(Data, DocumentsMayBeApart) {
  const TemporaryFolder here;
  write_index<std::uint16_t>(here, "a", 8, {{1, 2, 3}, {4, 5}, {6, 7, 8, 9}});
  const Overrides options{"data.sources=[" + source(here, "a") + "]", "data.heldout_share=0",
                          "data.sequence=8"};
  const Windows joined = Data(config_of(options)).samples(0, 1);
  EXPECT_EQ(joined.starts, (std::vector<std::int64_t>{}));
  EXPECT_EQ(joined.counts, std::vector<std::uint8_t>(8, 1));
  Overrides apart = options;
  apart.emplace_back("data.across_documents=false");
  const Windows two = Data(config_of(apart)).samples(0, 2);
  EXPECT_EQ(two.ids, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(two.starts, (std::vector<std::int64_t>{0, 3, 5, 8, 11, 13}));
  // What 3 and 5 are followed by is another document.
  EXPECT_EQ(two.counts, (std::vector<std::uint8_t>{1, 1, 0, 1, 0, 1, 1, 1,  //
                                                   1, 1, 0, 1, 0, 1, 1, 1}));
  EXPECT_EQ(two.targets_that_count(), 12);
}

TEST(Data, MasksOfTokensBecomeThoseOfTargets) {
  const TemporaryFolder here;
  write_index<std::uint8_t>(here, "a", 1, {{1, 2, 3}, {4, 5, 6}});
  here.write("a.json", to_json({.tokenizer = "bytes",
                                .vocabulary = 256,
                                .largest_id = 6,
                                .end_id = 12,
                                .documents = 2,
                                .tokens = 6,
                                .has_mask = true}));
  here.write("a.mask", std::string(1, char(0b110100)));
  const Windows one = Data(config_of({"data.sources=[" + source(here, "a") + "]",
                                      "data.heldout_share=0", "data.sequence=5"}))
                          .samples(0, 1);
  EXPECT_EQ(one.targets, (std::vector<std::int32_t>{2, 3, 4, 5, 6}));
  EXPECT_EQ(one.counts, (std::vector<std::uint8_t>{0, 1, 0, 1, 1}));
}

TEST(Data, AStoredSourceMayBeNamedByAnyOfItsFiles) {
  const TemporaryFolder here;
  write_index<std::uint8_t>(here, "a", 1, counting_documents(20, 200));
  std::vector<std::vector<std::int32_t>> seen;
  for (const char* name : {"a", "a.bin", "a.idx"})
    seen.push_back(Data(config_of({"data.sources=[" + source(here, name) + "]",
                                   "data.heldout_share=0", "data.sequence=8"}))
                       .samples(3, 2)
                       .ids);
  EXPECT_EQ(seen[1], seen[0]);
  EXPECT_EQ(seen[2], seen[0]);
}

TEST(Data, ErrorsSayWhereTheSourceWasWritten) {
  const TemporaryFolder here;
  here.write("english.txt", std::string(40000, 'e'));
  const std::string english = "data.sources[0].path=" + here.path("english.txt");
  const auto says = [&](const Overrides& overrides, const std::vector<std::string>& facts) {
    const std::string error = error_of_data(overrides);
    for (const std::string& fact : facts)
      EXPECT_NE(error.find(fact), std::string::npos) << fact << " is not in: " << error;
  };
  says({}, {"run.yaml:10: data.sources[0].path: english.txt: there is no such file or folder"});
  says({english, "data.heldout_share=0"},
       {"run.yaml:12: data.sources[1].path: german.txt: there is no such file"});
  write_index<std::uint16_t>(here, "b", 8, counting_documents(20, 200));
  here.write("b.idx", here.read("b.idx").substr(0, 50));
  const std::string stored = "data.sources[1].path=" + here.path("b");
  says({english, "data.heldout_share=0", stored},
       {"override 'data.sources[1].path=", "b.idx: ", "byte 18"});
}

}  // namespace
}  // namespace pf
