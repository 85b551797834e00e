#include "launch/resume_rules.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "launch/config_keys.h"
#include "tests/launch/config_text.h"
#include "tests/launch/index_files.h"
#include "tests/launch/reporting.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

const std::string checkpoint = "runs/a/checkpoints/step-00000050";

struct Configured {
  config::Config config;
  Places places;
};

Configured configured(const Overrides& overrides) {
  Configured all;
  all.config = parse_config(small_run, "run.yaml", overrides, {.places = &all.places});
  return all;
}

Resumption resumed_with(const Overrides& was, const Overrides& now) {
  const Configured today = configured(now);
  return resumed(to_yaml(configured(was).config), checkpoint, today.config, today.places);
}

std::string error_of_resuming(const Overrides& was, const Overrides& now) {
  return error_of([&] { resumed_with(was, now); });
}

std::string words(const Overrides& was, const Overrides& now) {
  return in_words(resumed_with(was, now).changed);
}

// Gives each map that may be missing; calls `visit` for each field that is neither map nor list.
template <class F>
void visit_leaves(Message& message, const std::string& path, F visit) {
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string key = path.empty() ? field.name() : path + "." + field.name();
    if (field.is_repeated()) {
      for (int e = 0; e < reflection.FieldSize(message, &field); ++e)
        visit_leaves(*reflection.MutableRepeatedMessage(&message, &field, e),
                     key + "[" + std::to_string(e) + "]", visit);
    } else if (field.message_type() != nullptr) {
      visit_leaves(*reflection.MutableMessage(&message, &field), key, visit);
    } else {
      visit(message, field, key);
    }
  }
}

// A value in the field's range, where it has none.
void give(Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  if (reflection.HasField(message, &field) || field.has_default_value()) return;
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) reflection.SetInt64(&message, &field, 4);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE)
    reflection.SetDouble(&message, &field, 1);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING)
    reflection.SetString(&message, &field, "a");
}

void change(Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, reflection.GetInt64(message, &field) + 1);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, reflection.GetDouble(message, &field) + 0.5);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, !reflection.GetBool(message, &field));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, reflection.GetString(message, &field) + "b");
    default: {
      const auto& values = *field.enum_type();
      const int now = reflection.GetEnum(message, &field)->index();
      reflection.SetEnum(&message, &field, values.value((now + 1) % values.value_count()));
    }
  }
}

// Every key of the schema, in a configuration with all maps, is changed alone. What this expects
// of a key that is not named here is what its part of the configuration has.
TEST(ResumeRules, EachKeyOfTheSchemaIsEitherKeptOrSaid) {
  const std::set<std::string> kept{"run.seed",         "train.global_batch", "train.ramp.start",
                                   "train.ramp.by",    "train.ramp.every",   "train.lora.rank",
                                   "train.lora.alpha", "train.lora.on",      "train.freeze",
                                   "optimizer.kind"};
  const std::set<std::string> free{"model.preset", "data.sources[0].path", "data.sources[1].path",
                                   "data.heldout_windows"};
  Configured all = configured({with_moe});
  visit_leaves(all.config, "",
               [](Message& m, const FieldDescriptor& f, const auto&) { give(m, f); });
  const std::string stored = to_yaml(parse_resolved(to_yaml(all.config), "stored"));
  const config::Config base = parse_resolved(stored, "stored");
  all.places.by_key["model.moe.balance.group"] = "run.yaml:99";
  ASSERT_EQ(resumed(stored, checkpoint, base, all.places).changed.size(), 0u);

  std::vector<std::string> keys;
  config::Config walked = base;
  visit_leaves(walked, "", [&](Message&, const FieldDescriptor&, const std::string& key) {
    keys.push_back(key);
  });
  EXPECT_GT(keys.size(), 120u);
  for (const std::string& key : keys) {
    config::Config now = base;
    visit_leaves(now, "", [&](Message& message, const FieldDescriptor& field, const auto& at) {
      if (at == key) change(message, field);
    });
    const bool is_kept =
        kept.contains(key) ||
        ((key.starts_with("model.") || key.starts_with("data.")) && !free.contains(key));
    std::vector<Changed> changed;
    const std::string error =
        error_of([&] { changed = resumed(stored, checkpoint, now, all.places).changed; });
    if (is_kept) {
      EXPECT_TRUE(error.find(": " + key + ": found ") != std::string::npos &&
                  error.find("; " + checkpoint + " has ") != std::string::npos)
          << key << ": " << error;
    } else {
      EXPECT_EQ(error, "no error");
      ASSERT_EQ(changed.size(), 1u) << key;
      EXPECT_EQ(changed[0].key, key);
    }
  }
}

TEST(ResumeRules, AnErrorHasThePlaceOfTheKeyAndBothValues) {
  EXPECT_EQ(error_of_resuming({}, {"model.layers=4"}),
            "override 'model.layers=4': model.layers: found 4; " + checkpoint +
                " has 2, and a run that goes on from it keeps that");
  EXPECT_EQ(error_of_resuming({"data.sequence=64"}, {}),
            "run.yaml:7: data.sequence: found 32; " + checkpoint +
                " has 64, and a run that goes on from it keeps that");
}

TEST(ResumeRules, AMapOrASourceMoreOrLessIsTold) {
  EXPECT_EQ(error_of_resuming({with_moe}, {}),
            "run.yaml:1: model.moe: found none; " + checkpoint +
                " has a map, and a run that goes on from it keeps that");
  EXPECT_EQ(error_of_resuming({}, {"train.lora={rank: 8}"}),
            "override 'train.lora={rank: 8}': train.lora: found a map; " + checkpoint +
                " has none, and a run that goes on from it keeps that");
  EXPECT_EQ(
      error_of_resuming({}, {"data.sources=[{name: english, path: english.txt}]"}),
      "override 'data.sources=[{name: english, path: english.txt}]': data.sources: found 1; " +
          checkpoint + " has 2, and a run that goes on from it keeps that");
}

TEST(ResumeRules, SourcesKeepTheirOrderAndWeights) {
  EXPECT_EQ(
      error_of_resuming({}, {"data.sources=[{name: german, path: a}, {name: english, path: b}]"}),
      "override 'data.sources=[{name: german, path: a}, {name: english, path: b}]': "
      "data.sources[0].name: found german; " +
          checkpoint + " has english, and a run that goes on from it keeps that");
  EXPECT_TRUE(contains(error_of_resuming({}, {"data.sources[1].weight=2"}),
                       "data.sources[1].weight: found 2; "));
}

TEST(ResumeRules, TheTypeOfWeightsIsKeptAndThatOfActivationsMayChange) {
  EXPECT_EQ(words({}, {"run.precision=bf16"}), "run.precision f32 -> bf16");
  EXPECT_EQ(words({"run.precision=bf16"}, {}), "run.precision bf16 -> f32");
  EXPECT_TRUE(contains(error_of_resuming({}, {"run.precision=f64"}),
                       "run.precision: found f64; " + checkpoint + " has f32"));
  EXPECT_TRUE(contains(error_of_resuming({"run.precision=f64"}, {"run.precision=bf16"}),
                       "run.precision: found bf16; " + checkpoint + " has f64"));
}

TEST(ResumeRules, MomentumMayChangeAsLongAsStatesAreThereOrNot) {
  const std::string sgd = "optimizer.kind=sgd", muon = "optimizer.kind=muon";
  EXPECT_EQ(words({sgd}, {sgd, "optimizer.momentum=0.5"}), "optimizer.momentum 0.95 -> 0.5");
  EXPECT_EQ(words({muon}, {muon, "optimizer.momentum=0"}), "optimizer.momentum 0.95 -> 0");
  EXPECT_TRUE(contains(error_of_resuming({sgd}, {sgd, "optimizer.momentum=0"}),
                       "optimizer.momentum: found 0; " + checkpoint + " has 0.95"));
  EXPECT_TRUE(contains(error_of_resuming({sgd, "optimizer.momentum=0"}, {sgd}),
                       "optimizer.momentum: found 0.95; " + checkpoint + " has 0"));
  EXPECT_TRUE(contains(error_of_resuming({sgd}, {muon}),
                       "optimizer.kind: found muon; " + checkpoint + " has sgd"));
}

// It is worked out from dp, which may change.
TEST(ResumeRules, ABalanceGroupThatIsNotGivenStaysTheCheckpoints) {
  const std::string group = "model.moe.balance.group=";
  const Resumption resumption = resumed_with({with_moe}, {with_moe, "parallel.ranks=2"});
  EXPECT_EQ(resumption.config.model().moe().balance().group(), 1);
  EXPECT_EQ(in_words(resumption.changed), "parallel.ranks 1 -> 2");
  EXPECT_TRUE(contains(error_of_resuming({with_moe}, {with_moe, group + "2"}),
                       "override '" + group + "2': " + "model.moe.balance.group: found 2; " +
                           checkpoint + " has 1"));
}

TEST(ResumeRules, TheRulesHoldForTheCheckpointsBalanceGroup) {
  const std::string error =
      error_of_resuming({with_moe, "train.global_batch=48", "model.moe.balance.group=3"},
                        {with_moe, "train.global_batch=48", "parallel.ranks=2"});
  EXPECT_TRUE(contains(error, "model.moe.balance.group: found 3, wanted ")) << error;
  EXPECT_TRUE(contains(error, "is that of " + checkpoint)) << error;
}

TEST(ResumeRules, WordsAreFewAndLeaveOutWhatChangesNoNumbers) {
  EXPECT_EQ(words({}, {}), "");
  EXPECT_EQ(words({}, {"run.name=b", "run.folder=c", "run.resume=never", "checkpoint.every=7",
                       "debug.watchdog=1", "data.sources[0].path=d"}),
            "");
  EXPECT_EQ(words({}, {"parallel.tp=2", "parallel.ranks=2", "optimizer.lr=2e-3"}),
            "optimizer.lr 0.001 -> 0.002, parallel.ranks 1 -> 2, parallel.tp 1 -> 2");
  EXPECT_EQ(words({}, {"train.steps=11", "train.micro_batch=1", "train.clip=2", "optimizer.lr=1",
                       "optimizer.beta1=0.5", "optimizer.beta2=0.5", "optimizer.eps=1e-3",
                       "optimizer.warmup=3"}),
            "train.steps 10 -> 11, train.micro_batch 2 -> 1, train.clip 1 -> 2, optimizer.lr 0.001 "
            "-> 1, optimizer.beta1 0.9 -> 0.5, optimizer.beta2 0.95 -> 0.5 and 2 more");
}

// What is stored by a program that does not know a key.
std::string stored_without(const std::string& line) {
  std::string stored = to_yaml(configured({}).config);
  const std::size_t at = stored.find(line);
  EXPECT_NE(at, std::string::npos);
  return stored.erase(at, line.size());
}

TEST(ResumeRules, AKeyThatAnOlderProgramDidNotHaveCountsAsItsDefault) {
  const std::string stored = stored_without("  beta2: 0.95\n");
  const Configured same = configured({}), other = configured({"optimizer.beta2=0.5"});
  EXPECT_EQ(resumed(stored, checkpoint, same.config, same.places).changed.size(), 0u);
  EXPECT_EQ(in_words(resumed(stored, checkpoint, other.config, other.places).changed),
            "optimizer.beta2 0.95 -> 0.5");
  const Configured biased = configured({"model.qkv_bias=true"});
  const std::string error = error_of([&] {
    resumed(stored_without("  qkv_bias: false\n"), checkpoint, biased.config, biased.places);
  });
  EXPECT_TRUE(contains(error, "model.qkv_bias: found true; " + checkpoint + " has false")) << error;
}

TEST(ResumeRules, AKeyThatOnlyANewerProgramHasIsAnErrorThatNamesTheCheckpoint) {
  const Configured today = configured({});
  const std::string error = error_of([&] {
    resumed(to_yaml(today.config) + "later: 1\n", checkpoint, today.config, today.places);
  });
  EXPECT_TRUE(error.starts_with(checkpoint + ": configuration:")) << error;
  EXPECT_TRUE(contains(error, ": later: unknown key")) << error;
}

// ---- data ----

std::string sources(const TemporaryFolder& here, const std::string& first) {
  return "data.sources=[{name: a, path: " + here.path(first) +
         "}, {name: b, path: " + here.path("b") + "}]";
}

std::string text(int documents) {
  std::string all;
  for (int i = 0; i < documents; ++i)
    all += "Document " + std::to_string(i * 7919) + " of a small corpus, with some words.\n\f";
  return all;
}

// What is said when `first` takes the place of "a" as the first source.
std::string error_of_data(const TemporaryFolder& here, const std::string& first) {
  const std::string stored = Data(configured({sources(here, "a")}).config).fingerprints();
  const Configured today = configured({sources(here, first)});
  return error_of([&] { check_same_data(stored, checkpoint, Data(today.config), today.places); });
}

TEST(ResumeRules, DataMayLieElsewhere) {
  const TemporaryFolder here;
  here.write("a", text(400));
  here.write("elsewhere/c", text(400));
  write_index<std::uint16_t>(here, "b", 8, counting_documents(1000, 50));
  EXPECT_EQ(error_of_data(here, "elsewhere/c"), "no error");
}

TEST(ResumeRules, OtherDataAreAnErrorThatNamesTheSource) {
  const TemporaryFolder here;
  here.write("a", text(400));
  write_index<std::uint16_t>(here, "b", 8, counting_documents(1000, 50));
  std::string other = text(400);
  other[10] = 'X';
  here.write("other", other);
  here.write("longer", text(401));
  const std::string error = error_of_data(here, "other");
  EXPECT_TRUE(error.starts_with("override 'data.sources=")) << error;
  EXPECT_TRUE(contains(error, ": data.sources[0].path: found other tokens than those that " +
                                  checkpoint + " was trained on: a: 2"))
      << error;
  EXPECT_TRUE(contains(error_of_data(here, "longer"), "data.sources[0].path: found other tokens"));
}

// Both have documents of equal lengths.
TEST(ResumeRules, OtherStoredTokensMasksAndDocumentsAreFound) {
  const TemporaryFolder here;
  write_index<std::uint16_t>(here, "b", 8, counting_documents(1000, 50));
  write_index<std::uint16_t>(here, "a", 8, counting_documents(1000, 50));
  write_index<std::int32_t>(here, "wider", 4, counting_documents(1000, 50));
  write_index<std::uint16_t>(here, "other", 8, counting_documents(1000, 49));
  EXPECT_EQ(error_of_data(here, "wider"), "no error");
  EXPECT_TRUE(contains(error_of_data(here, "other"), "data.sources[0].path: found other tokens"));
}

}  // namespace
}  // namespace pf
