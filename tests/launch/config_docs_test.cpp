#include "launch/config_docs.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/philox.h"
#include "launch/config_keys.h"
#include "models/options.pb.h"
#include "tests/launch/config_text.h"

namespace pf {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

std::string source_file(const std::string& name) {
  return PENTAFOLD_SOURCE_DIR "/" + name;
}

std::string text_of_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Calls the visitor for every field that a configuration can have.
void visit(const Descriptor& map, const std::function<void(const FieldDescriptor&)>& visitor) {
  for (int i = 0; i < map.field_count(); ++i) {
    visitor(*map.field(i));
    if (map.field(i)->message_type() != nullptr) visit(*map.field(i)->message_type(), visitor);
  }
}

TEST(ConfigDocs, ThePageIsWhatTheSchemaSays) {
  const std::string page = source_file("docs/config.md");
  if (text_of_file(page) == config_reference()) return;
  const std::string wanted = testing::TempDir() + "config.md";
  std::ofstream(wanted) << config_reference();
  FAIL() << "docs/config.md is not what the schema says; what it says: cp " << wanted << " "
         << page;
}

TEST(ConfigDocs, EveryKeyIsExplainedInASentence) {
  visit(*config::Config::descriptor(), [](const FieldDescriptor& field) {
    EXPECT_TRUE(field.options().GetExtension(config::doc).ends_with(".")) << field.full_name();
  });
}

TEST(ConfigDocs, EveryKeyIsRequiredOrHasADefault) {
  visit(*config::Config::descriptor(), [](const FieldDescriptor& field) {
    const auto& options = field.options();
    const int sources = int{field.has_default_value()} +
                        int{options.HasExtension(config::derived)} +
                        int{options.GetExtension(config::required_key)};
    const bool is_map = field.message_type() != nullptr && !field.is_repeated();
    EXPECT_EQ(sources, is_map ? 0 : 1) << field.full_name();
  });
}

TEST(ConfigDocs, EveryDefaultIsInItsRange) {
  visit(*config::Config::descriptor(), [](const FieldDescriptor& field) {
    double value = 0;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64)
      value = static_cast<double>(field.default_value_int64());
    else if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE)
      value = field.default_value_double();
    else
      return;
    EXPECT_TRUE(!field.has_default_value() || in_range(field, value)) << field.full_name();
  });
}

TEST(ConfigFiles, AllOfOursAreSound) {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source_file("configs"))) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    EXPECT_EQ(error_of([&] { load_config(entry.path()); }), "no error");
  }
  EXPECT_GE(files, 3);
}

TEST(ConfigFiles, ThePeersModelsDifferFromTheQuickstartOnlyInTheirLayout) {
  const Overrides layout = {"run.name=x", "parallel={ranks: 1, threads: 2}", "train.micro_batch=16",
                            "model.moe.balance.kind=micro"};
  const auto quickstart = load_config(source_file("configs/quickstart.yaml"), layout);
  const auto peer = load_config(source_file("configs/peer_moe.yaml"), {"run.name=x"});
  EXPECT_EQ(quickstart.model().DebugString(), peer.model().DebugString());
  EXPECT_EQ(quickstart.data().DebugString(), peer.data().DebugString());
  EXPECT_EQ(quickstart.optimizer().DebugString(), peer.optimizer().DebugString());
}

TEST(ConfigYaml, WhatIsWrittenReadsBackEqual) {
  for (const Overrides& overrides :
       {Overrides{}, Overrides{with_moe, "parallel.ranks=2", "cluster.memory=3GiB"}}) {
    const auto config = parse_config(small_run, "small.yaml", overrides);
    EXPECT_TRUE(equal(parse_config(to_yaml(config), "other.yaml"), config)) << to_yaml(config);
  }
}

TEST(ConfigYaml, ASavedFileCanBeLoadedAndChanged) {
  const std::string path = testing::TempDir() + "/pentafold_config_test.yaml";
  const auto config = parse_config(small_run, "small.yaml", {with_moe, "parallel.ranks=2"});
  save_config(config, path);
  EXPECT_TRUE(equal(load_config(path), config));
  EXPECT_EQ(load_config(path, {"parallel.ranks=1"}).model().moe().balance().group(), 2);
  std::filesystem::remove(path);
}

TEST(ConfigYaml, AFileThatCannotBeWrittenIsNamed) {
  const auto config = parse_config(small_run, "small.yaml");
  EXPECT_EQ(error_of([&] { save_config(config, "/no/such/folder/a.yaml"); }),
            "/no/such/folder/a.yaml: cannot write the configuration: No such file or directory");
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  EXPECT_EQ(error_of([&] { save_config(config, "/dev/full"); }),
            "/dev/full: cannot write the configuration: No space left on device");
}

TEST(ConfigYaml, AnyTextSurvives) {
  for (const std::string text :
       {"null",   "~",    "true",   "12", "1e3", " a ", "a: b", "a #b",  "#a",
        "- a",    "[a]",  "{a",     "&a", "*a",  "!a",  "'a",   "\"a\"", "a\\b",
        "a\nb\n", "a\tb", "|",      ">",  "%a",  "@a",  "`a",   "---",   "...",
        "?",      "äöü",  "日本語", "😀",  "a,b", "=",   "<<",   "\x01",  "\x7f"}) {
    auto config = parse_config(small_run, "small.yaml");
    config.mutable_data()->mutable_sources(0)->set_path(text);
    EXPECT_TRUE(equal(parse_config(to_yaml(config), "small.yaml"), config)) << to_yaml(config);
  }
}

TEST(ConfigYaml, EveryDoubleSurvivesBitForBit) {
  auto config = parse_config(small_run, "small.yaml");
  const Random random{.seed = 7};
  for (std::uint64_t i = 0; i < 300; ++i) {
    const auto words = random.words(i);
    const std::uint64_t bits = (std::uint64_t{words[0]} << 32 | words[1]) >> 1;
    double value = 0;
    std::memcpy(&value, &bits, sizeof value);
    if (i < 10) value = std::pow(10.0, static_cast<double>(i * i) - 20);
    if (!std::isfinite(value)) continue;
    config.mutable_train()->set_clip(value);
    EXPECT_EQ(parse_config(to_yaml(config), "a.yaml").train().clip(), value) << value;
  }
}

TEST(ConfigYaml, NumbersAreNumbersForEveryReader) {
  EXPECT_EQ(number_in_words(1e-8), "1.0e-08");
  EXPECT_EQ(number_in_words(0.1), "0.1");
  EXPECT_EQ(number_in_words(2), "2");
  EXPECT_EQ(number_in_words(1e22), "1.0e+22");
}

TEST(ConfigKeys, ASwapOfNeighboursIsOneEdit) {
  EXPECT_EQ(edit_distance("hidden", "hidden"), 0);
  EXPECT_EQ(edit_distance("hiddne", "hidden"), 1);
  EXPECT_EQ(edit_distance("hiden", "hidden"), 1);
  EXPECT_EQ(edit_distance("", "lr"), 2);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance(std::string(1 << 24, 'x'), "steps"), 1 << 24);
}

}  // namespace
}  // namespace pf
