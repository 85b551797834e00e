// A large job and the small one of the same layout.
#include "launch/job_shrink.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "launch/job_facts.h"
#include "launch/prove_case.h"
#include "launch/prove_file.h"
#include "launch/prove_layouts.h"
#include "launch/run_mesh.h"
#include "models/presets.h"
#include "models/transformer.h"
#include "tests/launch/config_text.h"

namespace pf {
namespace {

config::Config job_of(const std::string& preset, const Overrides& overrides) {
  return parse_config("model: {preset: " + preset + R"(}
data: {sequence: 2048, sources: [{name: none, path: none}]}
train: {steps: 10, micro_batch: 1, global_batch: 1024}
optimizer: {lr: 1e-3}
)",
                      "job.yaml", overrides);
}

// What two sizes have in common with what cuts them.
void expect_cut_alike(std::int64_t job, std::int64_t here, std::int64_t ranks, const char* what) {
  EXPECT_EQ(std::gcd(job, ranks), std::gcd(here, ranks)) << what;
  EXPECT_EQ(job > ranks, here > ranks) << what;
  EXPECT_LE(here, job) << what;
}

void expect_alike(const config::Config& job, const config::Config& here) {
  EXPECT_EQ(refusal(here), "");
  EXPECT_EQ(first_difference(facts_of(job), facts_of(here)), "");
  EXPECT_LT(model_size(here.model(), here.data().sequence()).parameters, 300'000);
  const config::Parallel& p = job.parallel();
  const config::Model &a = job.model(), &b = here.model();
  expect_cut_alike(a.heads(), b.heads(), p.tp(), "heads");
  expect_cut_alike(a.vocabulary(), b.vocabulary(), p.tp(), "vocabulary");
  expect_cut_alike(a.moe().experts(), b.moe().experts(), p.ep(), "experts");
  expect_cut_alike(a.moe().ffn(), b.moe().ffn(), p.etp(), "width of experts");
  expect_cut_alike(a.moe().shared_ffn(), b.moe().shared_ffn(), p.tp(), "shared expert");
  if (!a.has_mla()) {
    expect_cut_alike(a.kv_heads(), b.kv_heads(), p.tp(), "KV heads");
    EXPECT_EQ(a.heads() > a.kv_heads(), b.heads() > b.kv_heads());
  }
  EXPECT_EQ(layers_of(a) % (p.pp() * p.chunks()), layers_of(b) % (p.pp() * p.chunks()));
  EXPECT_EQ(layers_of(a) > p.pp() * p.chunks(), layers_of(b) > p.pp() * p.chunks());
  EXPECT_EQ(data_parallel_size(job), data_parallel_size(here));
}

TEST(SmallJobs, PresetsAreCutLikeTheLargeOnes) {
  const std::vector<Overrides> dense = {
      {"parallel.ranks=8", "parallel.tp=8"},
      {"parallel.ranks=128", "parallel.tp=2", "parallel.cp=4", "parallel.pp=4"},
      {"parallel.ranks=64", "parallel.tp=4", "parallel.pp=4", "parallel.schedule=interleaved",
       "parallel.chunks=3"},
      {"parallel.ranks=32", "parallel.tp=4", "parallel.cp=2", "parallel.cp_method=ulysses",
       "parallel.pp=2", "parallel.schedule=zbv", "parallel.chunks=2"}};
  const std::vector<Overrides> sparse = {
      {"parallel.ranks=128", "parallel.tp=2", "parallel.ep=8", "parallel.pp=8",
       "model.moe.balance.group=1"},
      {"parallel.ranks=128", "parallel.tp=4", "parallel.ep=4", "parallel.etp=2", "parallel.pp=2",
       "model.moe.balance.group=32"}};
  int found = 0;
  for (const Preset& preset : presets())
    for (const bool is_moe : {false, true})
      for (const Overrides& overrides : is_moe ? sparse : dense) {
        if (is_moe && !preset.model.has_moe()) continue;
        config::Config job;
        try {
          job = job_of(preset.name, overrides);
        } catch (const Error&) {  // not every model can be cut in every way
          continue;
        }
        SCOPED_TRACE(preset.name + ": " + axes_text(job));
        const config::Config here = shrink_job(job);
        expect_alike(job, here);
        EXPECT_TRUE(equal(shrink_job(here), here));
        ++found;
      }
  EXPECT_GT(found, 40);
}

// The keys that are another, with their values here.
std::map<std::string, std::string> changes(const config::Config& job) {
  std::map<std::string, std::string> out;
  for (const ChangedKey& change : changed_keys(job, shrink_job(job))) out[change.key] = change.here;
  return out;
}

TEST(SmallJobs, SizesAreTheSmallest) {
  const config::Config job =
      load_config(PENTAFOLD_SOURCE_DIR "/configs/mixtral_8x22b.yaml",
                  {"parallel.ranks=128", "parallel.tp=2", "parallel.ep=8", "parallel.pp=8"});
  EXPECT_EQ(changes(job), (std::map<std::string, std::string>{
                              {"model.layers", "16"},        // of 58 with both ends, two too many
                              {"model.hidden", "10"},        //
                              {"model.heads", "8"},          // two share keys
                              {"model.kv_heads", "4"},       // a tp rank has two
                              {"model.head_dim", "4"},       //
                              {"model.moe.ffn", "11"},       // larger than hidden
                              {"model.vocabulary", "24"},    // even
                              {"model.init_std", "0.2"},     //
                              {"data.sequence", "12"},       //
                              {"train.global_batch", "72"},  // 9 micro-batches of 8 replicas
                              {"train.head_chunk", "3"}}));  // divides the rows
}

TEST(SmallJobs, WhatDoesNotDivideStaysSo) {
  auto here = changes(job_of("gpt3-175b", {"parallel.ranks=16", "parallel.tp=8"}));
  EXPECT_EQ(here["model.vocabulary"], "23");  // 50257 is odd
  EXPECT_EQ(here["model.heads"], "16");
  EXPECT_EQ(here["model.kv_heads"], "16");
  here = changes(job_of("qwen3-30b-a3b", {"parallel.ranks=16", "parallel.tp=8", "parallel.ep=16"}));
  EXPECT_FALSE(here.contains("model.kv_heads"));  // 4 for 8 ranks
  EXPECT_EQ(here["model.heads"], "16");
  EXPECT_EQ(here["model.moe.experts"], "32");
  EXPECT_EQ(here["model.moe.top_k"], "2");
}

TEST(SmallJobs, FeaturesOfSizesStay) {
  auto here = changes(job_of(
      "mixtral-8x7b",
      {"parallel.ranks=8", "parallel.tp=2", "model.window=512", "model.full_attention_every=4",
       "train.micro_batch=3", "train.global_batch=47", "train.recompute=full",
       "train.recompute_layers=5", "model.moe.capacity={factor: 1.25, block: 512}",
       "train.lora={rank: 64}", "train.ramp={start: 12, by: 12, every: 10}", "train.head_chunk=512",
       "cluster.memory=80GiB", "parallel.threads=8"}));
  EXPECT_EQ(here["model.window"], "5");
  EXPECT_EQ(here["data.sequence"], "16");
  EXPECT_EQ(here["model.full_attention_every"], "2");
  EXPECT_EQ(here["train.micro_batch"], "2");
  EXPECT_EQ(here["train.global_batch"],
            "15");  // two micro-batches of 4 replicas, one of a sequence
  EXPECT_EQ(here["train.recompute_layers"], "1");
  EXPECT_EQ(here["model.layers"], "2");
  EXPECT_EQ(here["model.moe.capacity.block"], "8");  // so that 3 experts may drop
  EXPECT_EQ(here["train.lora.rank"], "2");
  EXPECT_EQ(here["train.ramp"], "none");
  EXPECT_EQ(here["cluster.memory"], "0");
  EXPECT_EQ(here["parallel.threads"], "1");
}

TEST(SmallJobs, LayersThatPatternsNameStay) {
  const Overrides axes{"parallel.ranks=2", "parallel.tp=2"};
  EXPECT_EQ(changes(job_of("llama3-8b", axes))["model.layers"], "2");
  for (const char* trained :
       {"train.freeze=embedding, layers.5.*", "train.lora={rank: 8, on: layers.5.attention.q}"})
    EXPECT_EQ(changes(job_of("llama3-8b", {axes[0], axes[1], trained}))["model.layers"], "6")
        << trained;
}

TEST(SmallJobs, StagesKeepTheirOrderAndKinds) {
  auto here = changes(
      job_of("deepseek-v3", {"parallel.ranks=64", "parallel.pp=4", "parallel.tp=2", "parallel.ep=8",
                             "parallel.stage_layers='12,17,17,17'", "model.moe.first_dense=14"}));
  EXPECT_EQ(here["parallel.stage_layers"], "\"3,4,4,4\"");
  EXPECT_EQ(here["model.layers"], "13");
  EXPECT_EQ(here["model.moe.first_dense"], "3");  // all of the first stage, and some of the second
  EXPECT_EQ(here["model.moe.experts"], "24");     // three of a group: group_best is 2
  EXPECT_FALSE(here.contains("model.moe.groups"));
  EXPECT_EQ(here["model.moe.top_groups"], "2");
}

TEST(SmallJobs, AMistakeOfALayoutIsSeen) {
  const FileToProve file = file_to_prove(
      PENTAFOLD_SOURCE_DIR "/configs/mixtral_8x22b.yaml",
      {"parallel.ranks=8", "parallel.tp=2", "parallel.ep=4", "parallel.pp=2", "train.clip=0"});
  ASSERT_TRUE(file.job.has_value());
  const std::vector<config::Config> layouts = layouts_to_prove(file).legal;
  ASSERT_EQ(layouts.size(), 1u);
  EXPECT_EQ(axes_text(layouts[0]), "tp 2  cp 1  dp 2   etp 1  ep 4  edp 1   pp 2  1f1b");
  Descent one_rank = one_rank_of(file);
  EXPECT_TRUE(prove(file.config, one_rank).holds()) << prove(file.config, one_rank).text();
  for (double& g : one_rank.steps[0].gradients.at("layers.1.moe.router")) g *= 1 + 1e-9;
  EXPECT_EQ(prove(file.config, one_rank).worst.where, "gradient of layers.1.moe.router, step 1");
}

TEST(SmallJobs, JobsOfOneRankAndWhatTrainingRefusesAreErrors) {
  const auto said = [](const Overrides& overrides) {
    return error_of(
        [&] { file_to_prove(PENTAFOLD_SOURCE_DIR "/configs/mixtral_8x22b.yaml", overrides); });
  };
  EXPECT_NE(said({}).find("parallel.ranks: found 1, wanted the ranks of a job"), std::string::npos)
      << said({});
  EXPECT_NE(said({"parallel.ranks=64", "parallel.tp=5"}).find("parallel."), std::string::npos);
  EXPECT_NE(said({"parallel.ranks=131072", "train.global_batch=131072"}).find("parallel.ranks: "),
            std::string::npos);
}

}  // namespace
}  // namespace pf
