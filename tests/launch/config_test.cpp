#include "launch/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "tests/launch/config_text.h"

namespace pf {
namespace {

// `small_run` with one part of its text replaced.
std::string changed(const std::string& part, const std::string& by) {
  std::string text = small_run;
  return text.replace(text.find(part), part.size(), by);
}

void expect_begins(const std::string& text, const std::string& want) {
  EXPECT_EQ(text.substr(0, want.size()), want);
}

TEST(Config, DefaultsAreFilledIn) {
  const auto config = parse_config(small_run, "some/where/small.yaml");
  EXPECT_EQ(config.run().name(), "small");
  EXPECT_EQ(config.run().folder(), "runs/small");
  EXPECT_EQ(config.model().kv_heads(), 4);
  EXPECT_EQ(config.model().head_dim(), 16);
  EXPECT_EQ(config.optimizer().beta2(), 0.95);
  EXPECT_TRUE(config.optimizer().has_beta2());
  EXPECT_TRUE(config.has_cluster());
  EXPECT_FALSE(config.model().has_moe());
}

TEST(Config, AFolderFollowsAGivenName) {
  const auto config = parse_config(small_run, "small.yaml", {"run.name=other"});
  EXPECT_EQ(config.run().folder(), "runs/other");
}

TEST(Config, TheBalanceGroupBecomesDpWhereItMatters) {
  const auto group = [](const std::string& kind) {
    const auto config = parse_config(
        small_run, "a.yaml", {with_moe, "model.moe.balance.kind=" + kind, "parallel.ranks=4"});
    return config.model().moe().balance().group();
  };
  EXPECT_EQ(group("global"), 4);
  EXPECT_EQ(group("mixed"), 4);
  EXPECT_EQ(group("micro"), 0);
}

TEST(Config, APresetsKeysStandBehindThoseThatAreGiven) {
  const auto config = parse_config(
      small_run, "a.yaml", {"model={preset: deepseek-v3, moe: {experts: 16, first_dense: 1}}"});
  EXPECT_EQ(config.model().layers(), 2);  // of the file
  EXPECT_EQ(config.model().mla().kv_rank(), 512);
  EXPECT_EQ(config.model().moe().experts(), 16);
  EXPECT_EQ(config.model().moe().ffn(), 2048);
  EXPECT_EQ(parse_config(to_yaml(config), "b.yaml").SerializeAsString(),
            config.SerializeAsString());
}

TEST(Config, APresetThatIsNotThereNamesTheNearest) {
  const std::string told = error_of(small_run, {"model.preset=qwen3-30b"});
  expect_begins(told,
                "override 'model.preset=qwen3-30b': model.preset: found 'qwen3-30b'; did you mean "
                "qwen3-30b-a3b? There are opt-125m, ");
}

TEST(Config, OverridesWinAndTheLastOneMost) {
  const auto config =
      parse_config(small_run, "a.yaml", {"train.steps=20", "train.steps=30", "optimizer.lr=5e-4"});
  EXPECT_EQ(config.train().steps(), 30);
  EXPECT_EQ(config.optimizer().lr(), 5e-4);
}

TEST(Config, AMapInAnOverrideIsMergedAndAListReplaced) {
  const auto config = parse_config(
      small_run, "a.yaml", {"train={steps: 5, clip: 2}", "data.sources=[{name: c, path: c.txt}]"});
  EXPECT_EQ(config.train().steps(), 5);
  EXPECT_EQ(config.train().clip(), 2);
  EXPECT_EQ(config.train().micro_batch(), 2);
  ASSERT_EQ(config.data().sources_size(), 1);
  EXPECT_EQ(config.data().sources(0).name(), "c");
}

TEST(Config, ElementsOfAListAreOverriddenByIndex) {
  const auto config =
      parse_config(small_run, "a.yaml", {"data.sources.0.path=x", "data.sources[1].weight=3"});
  EXPECT_EQ(config.data().sources(0).path(), "x");
  EXPECT_EQ(config.data().sources(1).weight(), 3);
}

TEST(Config, NullTakesAMapOut) {
  EXPECT_FALSE(parse_config(small_run, "a.yaml", {with_moe, "model.moe=null"}).model().has_moe());
}

TEST(Config, AnEmptyMapHasItsDefaults) {
  EXPECT_EQ(parse_config(std::string(small_run) + "cluster:\n", "a.yaml").cluster().device(),
            "cpu");
}

TEST(Config, IntegersMayBeWrittenInAnyExactForm) {
  for (const char* text : {"1000000", "1e6", "1.0E6", "+1000000", "1000000.0"}) {
    const auto config = parse_config(small_run, "a.yaml", {std::string("train.steps=") + text});
    EXPECT_EQ(config.train().steps(), 1000000) << text;
  }
  const auto largest = std::numeric_limits<std::int64_t>::max();
  const auto config = parse_config(small_run, "a.yaml", {"run.seed=" + std::to_string(largest)});
  EXPECT_EQ(config.run().seed(), largest);
}

TEST(Config, BytesMayHaveAUnit) {
  const auto memory = [](const std::string& text) {
    return parse_config(small_run, "a.yaml", {"cluster.memory=" + text}).cluster().memory();
  };
  EXPECT_EQ(memory("80GiB"), std::int64_t{80} << 30);
  EXPECT_EQ(memory("1.5 GiB"), std::int64_t{3} << 29);
  EXPECT_EQ(memory("16GB"), 16000000000);
  EXPECT_EQ(memory("2097152"), 2097152);
}

TEST(Config, NamesThatLookLikeOtherTypesAreText) {
  const auto config = parse_config(small_run, "a.yaml", {"run.name=2024", "run.folder=true"});
  EXPECT_EQ(config.run().name(), "2024");
  EXPECT_EQ(config.run().folder(), "true");
}

// ---- errors of overrides ----

TEST(ConfigOverride, OneThatIsRefusedIsQuoted) {
  EXPECT_EQ(error_of(small_run, {"train.steps=3", "train.steps=x"}),
            "override 'train.steps=x': train.steps: found 'x', wanted an integer, 1 to "
            "1000000000000");
}

TEST(ConfigOverride, OneWithoutAKeyOrAValueIsRefused) {
  for (const std::string text : {"train.steps", "=3", ""})
    EXPECT_EQ(error_of(small_run, {text}),
              "override '" + text + "': wanted key.path=value, as in train.steps=100");
  EXPECT_EQ(told({"train.steps="}),
            "train.steps: found nothing, wanted an integer, 1 to 1000000000000");
}

TEST(ConfigOverride, AValueThatIsNotYamlIsRefused) {
  EXPECT_EQ(told({"train.steps=[3"}), "not YAML: end of sequence flow not found");
}

TEST(ConfigOverride, AnElementIsNamedByItsIndex) {
  EXPECT_EQ(told({"data.sources.name=x"}),
            "data.sources: is a list; name an element, as in data.sources.0");
  EXPECT_EQ(told({"data.sources.2.name=x"}),
            "data.sources: has 2 elements, counted from 0; there is no 2");
  EXPECT_EQ(told({"data.sources.0=x"}),
            "data.sources[0]: is a map; name a key in it: name, path, weight");
}

TEST(ConfigOverride, NothingIsBelowAValue) {
  EXPECT_EQ(told({"train.steps.first=1"}),
            "train.steps: has no keys below it; it is an integer, 1 to 1000000000000");
}

TEST(ConfigOverride, KeysOfAListThatWasReplacedAreNotLookedForInTheFile) {
  EXPECT_EQ(error_of(small_run, {"data.sources=[{name: a}]"}).substr(0, 35),
            "override 'data.sources=[{name: a}]'");
}

TEST(ConfigOverride, OneHoldsOneYamlValueToItsEnd) {
  EXPECT_EQ(told({"train.steps=5\n---\n6"}), "a second YAML document starts here, wanted one");
  EXPECT_EQ(told({"train={steps: 5}, 6"}), "not YAML: this is neither a key nor part of a value");
}

// ---- what is foreign ----

TEST(ConfigText, AMessageShowsNothingThatSteersATerminal) {
  const std::string key =
      "override 'train.\\x1b[31mste\\nps=3': train.\\x1b[31mste\\nps: unknown key";
  expect_begins(error_of(small_run, {"train.\x1b[31mste\nps=3"}), key);
  EXPECT_EQ(told({"run.name=\"a/\\x1b\""}),
            "run.name: found 'a/\\x1b', wanted a name without '/'; folders belong into run.folder");
}

TEST(ConfigText, AMessageOfALongTextIsShort) {
  const std::string mega(1 << 20, 'x');
  const std::string shown = "'" + std::string(200, 'x') + "...'";
  EXPECT_LT(error_of(mega + ": 1").size(), 2000u);
  EXPECT_LT(error_of("'" + mega + "'").size(), 2000u);
  EXPECT_EQ(error_of(small_run, {"run.precision=" + mega}).find("override 'run.precision=xxx"), 0u);
  EXPECT_EQ(told({"model.preset=" + mega}).find("model.preset: found " + shown + "; did"), 0u);
  std::string empty_sources;
  for (int i = 0; i < 1000; ++i) empty_sources += "{}, ";
  expect_begins(told({"data.sources=[" + empty_sources + "]"}),
                "data.sources[0].name: is missing; wanted text: ");
  EXPECT_TRUE(told({"data.sources=[" + empty_sources + "]"})
                  .ends_with("data.sources[4].path and 1990 more"));
}

TEST(ConfigText, WhatIsNoTextIsRefused) {
  EXPECT_EQ(error_of(std::string(small_run) + "# \xff\n"),
            "run.yaml:19: not YAML: found '\\xff', wanted text in UTF-8");
  // yaml-cpp takes it for the end of the file.
  EXPECT_EQ(error_of(std::string(small_run) + "\x04\nnonsense: 1\n"),
            "run.yaml:19: not YAML: found '\\x04', wanted text in UTF-8");
  EXPECT_EQ(told({"run.folder=\"a\\x00b\""}),
            "run.folder: found 'a\\x00b' in quotes, wanted text without zero bytes");
}

TEST(ConfigText, ARunIsNamedAfterAnyFile) {
  const config::Config config = parse_config(small_run, "a\xff\n.yaml");
  EXPECT_EQ(config.run().name(), "a\\xff\\n");
  EXPECT_TRUE(equal(parse_config(to_yaml(config), "b.yaml"), config));
  EXPECT_EQ(error_of([] { parse_config("", "a\x1b.yaml"); }).find("a\\x1b.yaml: the file is"), 0u);
}

TEST(ConfigText, NestingAndAliasesEndInAnError) {
  EXPECT_EQ(error_of(std::string(1 << 20, '[')), "run.yaml:1: not YAML: bad file");
  std::string laughs = "a: &a [x]\n";
  for (char c = 'b'; c <= 'z'; ++c) {
    const std::string before(1, char(c - 1));
    laughs += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 9; ++i) laughs += "*" + before + ", ";
    laughs += "]\n";
  }
  expect_begins(error_of(laughs), "run.yaml:1: a: unknown key");
  expect_begins(error_of("model: &m {moe: *m}\n"), "run.yaml:1: model.moe.moe: unknown key");
}

// ---- errors of files ----

TEST(ConfigFile, AMissingOneIsNamed) {
  EXPECT_EQ(error_of([] { load_config("no/such.yaml"); }),
            "no/such.yaml: cannot open the configuration: No such file or directory");
}

TEST(ConfigFile, AFolderIsRefused) {
  EXPECT_EQ(error_of([] { load_config("/tmp"); }), "/tmp: this is a folder, wanted a YAML file");
}

TEST(ConfigFile, OneThatCannotBeReadIsNamed) {
  if (!std::filesystem::exists("/proc/self/mem")) GTEST_SKIP() << "no /proc/self/mem here";
  EXPECT_EQ(error_of([] { load_config("/proc/self/mem"); }),
            "/proc/self/mem: cannot read the configuration: Input/output error");
}

TEST(ConfigFile, AnEndlessOneIsRefused) {
  EXPECT_EQ(error_of([] { load_config("/dev/zero"); }),
            "/dev/zero: longer than 1 MiB, this is not a configuration");
}

TEST(ConfigFile, AnEmptyOneIsRefused) {
  const std::string want =
      "run.yaml: the file is empty, wanted a map with run, model, data, train, optimizer, "
      "parallel, cluster, checkpoint, debug";
  EXPECT_EQ(error_of(""), want);
  EXPECT_EQ(error_of("# nothing\n"), want);
  EXPECT_EQ(error_of("---\n"), want);
}

TEST(ConfigFile, BrokenYamlIsShownByLine) {
  EXPECT_EQ(error_of("model:\n  layers: [1, 2\n"),
            "run.yaml:3: not YAML: end of sequence flow not found");
  expect_begins(error_of("model: {}\n\tx: 1\n"), "run.yaml:2: not YAML");
}

TEST(ConfigFile, WhatBelongsToNothingIsRefused) {
  const std::string want = ": not YAML: this is neither a key nor part of a value";
  EXPECT_EQ(error_of(",\n"), "run.yaml:1" + want);
  EXPECT_EQ(error_of("# first\n,# second\n" + std::string(small_run)), "run.yaml:2" + want);
}

TEST(ConfigFile, TwoDocumentsAreRefused) {
  EXPECT_EQ(error_of(std::string(small_run) + "---\nrun: {}\n"),
            "run.yaml:19: a second YAML document starts here, wanted one");
}

TEST(ConfigFile, OneThatIsNoMapIsRefused) {
  expect_begins(error_of("- a\n"), "run.yaml:1: found a list, wanted a map with");
  expect_begins(error_of("hello\n"), "run.yaml:1: found 'hello', wanted a map with");
}

// ---- errors of keys ----

TEST(ConfigKey, AnUnknownOneIsShownWithTheNearest) {
  EXPECT_EQ(error_of(changed("hidden: 64", "hiden: 64")),
            "run.yaml:3: model.hiden: unknown key; did you mean model.hidden?");
  EXPECT_EQ(error_of(changed("path: german.txt", "pth: german.txt")),
            "run.yaml:12: data.sources[1].pth: unknown key; did you mean data.sources[].path?");
  EXPECT_EQ(told({"model.lr=1"}), "model.lr: unknown key; did you mean optimizer.lr?");
  EXPECT_EQ(told({"model.hidden_size=1"}),
            "model.hidden_size: unknown key; did you mean model.hidden?");
  EXPECT_EQ(told({"modle.hidden=1"}), "modle.hidden: unknown key; did you mean model.hidden?");
  EXPECT_EQ(told({"model.fnn=1"}), "model.fnn: unknown key; did you mean model.ffn?");
  EXPECT_EQ(told({"model.moe.fnn=1"}), "model.moe.fnn: unknown key; did you mean model.moe.ffn?");
  EXPECT_EQ(told({"optimizer.ep=1"}), "optimizer.ep: unknown key; did you mean optimizer.eps?");
  EXPECT_EQ(told({"run.namee=1"}), "run.namee: unknown key; did you mean run.name?");
  EXPECT_EQ(told({"threads=1"}), "threads: unknown key; did you mean parallel.threads?");
}

TEST(ConfigKey, AnUnknownOneThatIsNearNothingShowsWhatThereIs) {
  EXPECT_EQ(error_of(changed("sequence: 32", "tokenizer: 32")),
            "run.yaml:7: data.tokenizer: unknown key; here are sequence, sources, heldout_share, "
            "heldout_windows, across_documents");
}

TEST(ConfigKey, OneGivenTwiceIsRefused) {
  EXPECT_EQ(error_of(changed("  heads: 4", "  heads: 4\n  heads: 2")),
            "run.yaml:5: model.heads: given twice, first at run.yaml:4");
  EXPECT_EQ(error_of(std::string(small_run) + "train:\n  steps: 1\n"),
            "run.yaml:19: train: given twice, first at run.yaml:13");
}

TEST(ConfigKey, OneThatIsNoTextIsRefused) {
  EXPECT_EQ(error_of(changed("sequence: 32", "[a, b]: 32")),
            "run.yaml:6: data: found a list, wanted a key");
}

TEST(ConfigKey, AllMissingOnesAreNamed) {
  EXPECT_EQ(
      error_of(changed("  steps: 10\n  micro_batch: 2\n", "")),
      "run.yaml:13: train.steps: is missing; wanted an integer, 1 to 1000000000000: Optimizer "
      "steps. Also missing: train.micro_batch");
  expect_begins(error_of(changed("      path: german.txt\n", "")),
                "run.yaml:11: data.sources[1].path: is missing; wanted text:");
  expect_begins(error_of("run: {seed: 1}"), "run.yaml: model.layers: is missing");
}

// ---- errors of values ----

TEST(ConfigValue, AWrongTypeIsRefused) {
  EXPECT_EQ(error_of(changed("steps: 10", "steps: ten")),
            "run.yaml:14: train.steps: found 'ten', wanted an integer, 1 to 1000000000000");
  EXPECT_EQ(error_of(changed("lr: 1e-3", "lr: fast")),
            "run.yaml:18: optimizer.lr: found 'fast', wanted a number, 0 to 1000");
  expect_begins(told({"train.steps=\"10\""}), "train.steps: found '10' in quotes, wan");
  expect_begins(told({"train.steps=10.5"}), "train.steps: found '10.5', wanted an");
  expect_begins(told({"train.steps=0x10"}), "train.steps: found '0x10', wanted an");
  expect_begins(told({"train.steps=10 steps"}), "train.steps: found '10 steps', wanted a");
  EXPECT_EQ(told({"cluster.memory=80XB"}),
            "cluster.memory: found '80XB', wanted an integer, at least 0, in bytes or with a unit "
            "(80GiB)");
}

TEST(ConfigValue, AnEmptyOneIsRefused) {
  EXPECT_EQ(error_of(changed("lr: 1e-3", "lr:")),
            "run.yaml:18: optimizer.lr: found nothing, wanted a number, 0 to 1000");
  EXPECT_EQ(told({"run.name=''"}), "run.name: found '' in quotes, wanted text, not empty");
}

TEST(ConfigValue, OneThatIsNotFiniteIsRefused) {
  for (const std::string value : {".nan", "nan", ".inf", "-inf", "1e999"})
    EXPECT_NE(told({"train.clip=" + value}).find("found '" + value + "', wanted a number"),
              std::string::npos)
        << value;
}

TEST(ConfigValue, OneThatDoesNotFitIsRefused) {
  for (const std::string value : {"9223372036854775808", "-99999999999999999999", "1e30", "1e999"})
    EXPECT_EQ(told({"run.seed=" + value}), "run.seed: found '" + value +
                                               "', wanted an integer, at least 0 (it does not fit "
                                               "into 64 bits)");
}

TEST(ConfigValue, OneOutOfRangeIsRefused) {
  EXPECT_EQ(error_of(changed("layers: 2", "layers: 0")),
            "run.yaml:2: model.layers: found '0', wanted an integer, 1 to 10000");
  EXPECT_EQ(told({"run.seed=-1"}), "run.seed: found '-1', wanted an integer, at least 0");
  EXPECT_EQ(told({"model.layers=10001"}),
            "model.layers: found '10001', wanted an integer, 1 to 10000");
  EXPECT_EQ(told({"optimizer.final_lr_share=1.1"}),
            "optimizer.final_lr_share: found '1.1', wanted a number, 0 to 1");
  EXPECT_EQ(told({"model.dropout=1"}),
            "model.dropout: found '1', wanted a number, at least 0, below 1");
  EXPECT_EQ(told({"optimizer.eps=0"}),
            "optimizer.eps: found '0', wanted a number, above 0, at most 1");
  expect_begins(told({"data.sources.1.weight=0"}), "data.sources[1].weight: found '0', w");
}

TEST(ConfigValue, AnUnknownNameIsShownWithAllNames) {
  EXPECT_EQ(told({"run.precision=fp16"}),
            "run.precision: found 'fp16', wanted one of f64 | f32 | bf16");
  EXPECT_EQ(told({"run.precision=bf61"}),
            "run.precision: found 'bf61', wanted one of f64 | f32 | bf16; did you mean bf16?");
  EXPECT_EQ(told({"optimizer.kind=lion"}),
            "optimizer.kind: found 'lion', wanted one of adamw | sgd | muon");
}

TEST(ConfigValue, AScalarForAMapOrAListIsRefused) {
  EXPECT_EQ(
      error_of(std::string(small_run) + "run: fast\n"),
      "run.yaml:19: run: found 'fast', wanted a map with name, folder, seed, precision, resume");
  EXPECT_EQ(error_of("data:\n  sources: english.txt\n"),
            "run.yaml:2: data.sources: found 'english.txt', wanted a list of maps with name, path, "
            "weight");
  EXPECT_EQ(
      error_of("data:\n  sources:\n    - {name: a, path: a}\n    - english.txt\n"),
      "run.yaml:4: data.sources[1]: found 'english.txt', wanted a map with name, path, weight");
}

TEST(ConfigValue, AMapOrAListForAScalarIsRefused) {
  EXPECT_EQ(error_of(changed("hidden: 64", "hidden:\n    - 64")),
            "run.yaml:3: model.hidden: found a list, wanted an integer, 1 to 1048576");
  EXPECT_EQ(error_of(changed("hidden: 64", "hidden:\n    size: 64")),
            "run.yaml:3: model.hidden: found a map, wanted an integer, 1 to 1048576");
  expect_begins(error_of("data:\n  sources: {name: a}\n"), "run.yaml:2: data.sources: found a map");
  expect_begins(error_of("train:\n  - steps: 3\n"), "run.yaml:1: train: found a list");
}

TEST(ConfigValue, AnEmptyListOfSourcesIsRefused) {
  EXPECT_EQ(told({"data.sources=[]"}),
            "data.sources: found an empty list, wanted a list of maps with name, path, weight");
}

}  // namespace
}  // namespace pf
