// Proofs of layouts: which are made, what they find, and how little is left of what fails.
#include "launch/prove_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "launch/prove_file.h"
#include "launch/prove_file_cases.h"
#include "launch/prove_layouts.h"
#include "launch/prove_optimizers.h"
#include "launch/prove_random.h"
#include "launch/prove_shrink.h"
#include "launch/run_mesh.h"
#include "tests/launch/config_text.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

const std::string folder = PENTAFOLD_SOURCE_DIR;

FileToProve moe(const Overrides& overrides) {
  return file_to_prove(folder + "/configs/prove/moe.yaml", overrides);
}

config::Config first_layout(const Overrides& overrides) {
  return layouts_to_prove(moe(overrides)).legal.front();
}

TEST(Proofs, AllLayoutsThatTrainingTakesAreMade) {
  const LayoutsOfModel layouts = layouts_to_prove(
      moe({"parallel.ranks=6", "parallel.etp=2", "parallel.pp=1", "train.global_batch=6"}));
  std::vector<std::string> made;
  for (const config::Config& config : layouts.legal) made.push_back(axes_text(config));
  // 3 divides neither heads nor experts, and 2 x 3 not the tokens.
  EXPECT_EQ(made, (std::vector<std::string>{"tp 1  cp 1  dp 6   etp 2  ep 1  edp 3",
                                            "tp 1  cp 2  dp 3   etp 2  ep 1  edp 3",
                                            "tp 2  cp 1  dp 3   etp 2  ep 1  edp 3"}));
  EXPECT_EQ(layouts.refusals.size(), 9 * 2 - 3u);
}

// Of layouts with a schedule each.
std::vector<std::string> axes_of_all(const LayoutsOfModel& layouts) {
  std::vector<std::string> all;
  for (const config::Config& config : layouts.legal) {
    all.push_back(axes_text(config));
    if (config.parallel().stage_layers() != "even")
      all.back() += " of " + config.parallel().stage_layers();
  }
  return all;
}

TEST(Proofs, LayoutsOfSeveralStagesTakeTheirSchedulesInTurn) {
  const Overrides group_1{"parallel.ranks=4", "parallel.pp=2", "model.moe.balance.group=1"};
  std::set<std::string> schedules;
  for (const std::string& text : axes_of_all(layouts_to_prove(moe(group_1))))
    schedules.insert(text.substr(text.find("pp 2")));
  EXPECT_EQ(schedules, (std::set<std::string>{"pp 2  1f1b", "pp 2  gpipe", "pp 2  interleaved x 2",
                                              "pp 2  zbh1", "pp 2  zbv x 2"}));
  // Micro-batches of a replica that are counted together.
  for (const std::string& text :
       axes_of_all(layouts_to_prove(moe({"parallel.ranks=4", "parallel.pp=2"}))))
    EXPECT_EQ(text.find(" x 2"), std::string::npos) << text;
  std::set<std::int64_t> stages;
  for (const config::Config& one : layouts_to_prove(moe({"parallel.ranks=4"})).legal)
    stages.insert(one.parallel().pp());
  EXPECT_EQ(stages, (std::set<std::int64_t>{1, 2, 4}));
}

TEST(Proofs, AScheduleThatIsGivenStays) {
  const TemporaryFolder here;
  const Overrides axes{"parallel.ranks=2", "parallel.pp=2", "model.moe.balance.group=1"};
  const auto layouts = [&](Overrides more) {
    more.insert(more.end(), axes.begin(), axes.end());
    return axes_of_all(layouts_to_prove(moe(more)));
  };
  using Texts = std::vector<std::string>;
  const std::string prefix = "tp 1  cp 1  dp 1   etp 1  ep 1  edp 1   pp 2  ";
  EXPECT_EQ(layouts({"parallel.schedule=zbv"}), Texts{prefix + "zbv x 2"});
  EXPECT_EQ(layouts({"parallel.stage_layers=1,4"}), Texts{prefix + "1f1b of 1,4"});
  EXPECT_NE(error_of([&] { layouts({"parallel.stage_layers=1,5"}); }).find("parallel.stage_layers"),
            std::string::npos);

  config::Config written = moe(axes).config;
  written.mutable_parallel()->set_pp(2);
  written.mutable_parallel()->set_schedule(config::Parallel::interleaved);
  written.mutable_parallel()->set_chunks(2);
  written.mutable_parallel()->set_stage_layers("1,2,1,1");
  const std::string path = here.path() + "/stages.yaml";
  save_config(written, path);
  const auto of_file = [&](const Overrides& more) {
    return axes_of_all(layouts_to_prove(file_to_prove(path, more)));
  };
  EXPECT_EQ(of_file({"parallel.pp=2"}), Texts{prefix + "interleaved x 2 of 1,2,1,1"});
  EXPECT_EQ(of_file({"parallel.pp=2", "parallel.schedule=zbh1", "parallel.chunks=1"}),
            Texts{prefix + "zbh1"});
}

TEST(Proofs, OneRankHasOneStage) {
  const config::Config config =
      first_layout({"parallel.ranks=2", "parallel.pp=2", "model.moe.balance.group=1",
                    "parallel.schedule=interleaved", "parallel.stage_layers=1,2,1,1"});
  const Recipe recipe = recipe_of(config), alone = recipe_of(on_one_rank(config));
  EXPECT_EQ(recipe.schedule, ScheduleKind::interleaved);
  EXPECT_EQ(recipe.chunks, 2);
  EXPECT_EQ(recipe.stage_layers, (std::vector<std::int64_t>{1, 2, 1, 1}));
  EXPECT_EQ(alone.schedule, ScheduleKind::one_f_one_b);
  EXPECT_EQ(alone.chunks, 1);
  EXPECT_EQ(alone.stage_layers, std::vector<std::int64_t>{5});
  EXPECT_TRUE(prove(config).holds()) << prove(config).text();
}

TEST(Proofs, TheBalanceGroupIsOneThatAllLayoutsShare) {
  EXPECT_EQ(moe({"parallel.ranks=8"}).config.model().moe().balance().group(), 8);
  EXPECT_EQ(
      moe({"parallel.ranks=8", "train.global_batch=4"}).config.model().moe().balance().group(), 4);
  EXPECT_EQ(
      moe({"parallel.ranks=8", "model.moe.balance.group=2"}).config.model().moe().balance().group(),
      2);
}

TEST(Proofs, LargeModelsAndBatchesAreJobsOfOneLayout) {
  EXPECT_FALSE(moe({"parallel.ranks=2"}).job.has_value());
  for (const char* large : {"model.hidden=4096", "train.global_batch=4096"}) {
    const FileToProve file = moe({"parallel.ranks=2", "parallel.tp=2", large});
    EXPECT_TRUE(file.job.has_value()) << large;
    EXPECT_EQ(layouts_to_prove(file).legal.size(), 1u) << large;
  }
  EXPECT_NE(error_of([] {
              file_to_draw(folder + "/configs/prove/moe.yaml", {"model.hidden=4096"});
            }).find("Make it smaller"),
            std::string::npos);
}

TEST(Proofs, SingleRanksAndIllegalLayoutsAreRefused) {
  EXPECT_NE(error_of([] { moe({}); }).find("parallel.ranks: found 1, wanted 2 to 64"),
            std::string::npos);
  EXPECT_NE(error_of([] {
              layouts_to_prove(moe({"parallel.ranks=8", "parallel.tp=2", "parallel.cp=2",
                                    "parallel.pp=1", "train.global_batch=7"}));
            }).find("no layout of 8 ranks is legal"),
            std::string::npos);
}

TEST(Proofs, AWrongGradientOrWeightOfOneRankIsFoundAndNamed) {
  const config::Config config = first_layout({"parallel.ranks=4", "parallel.tp=2"});
  const Descent one_rank = descend(on_one_rank(config));
  EXPECT_TRUE(prove(config, one_rank).holds()) << prove(config, one_rank).text();
  Descent wrong = one_rank;
  for (double& g : wrong.steps[1].gradients.at("layers.1.moe.router")) g *= 2;
  EXPECT_FALSE(prove(config, wrong).holds());
  EXPECT_EQ(prove(config, wrong).worst.where, "gradient of layers.1.moe.router, step 2");
  wrong = one_rank;
  wrong.weights.at("layers.2.attention.out")[5] += 1e-9;
  EXPECT_FALSE(prove(config, wrong).holds());
  EXPECT_EQ(prove(config, wrong).worst.where, "weights layers.2.attention.out");
}

TEST(Proofs, AVerdictNamesTheLayoutAndTheTensorThatDiffer) {
  const FileToProve file =
      moe({"parallel.ranks=4", "parallel.tp=2", "parallel.cp=2", "parallel.ep=2"});
  Descent one_rank = one_rank_of(file);
  const auto verdict = [&](bool want) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(prove_layouts(layouts_to_prove(file), one_rank), want);
    return testing::internal::GetCapturedStdout();
  };
  EXPECT_NE(verdict(true).find("proven: 2 layouts are one rank within 1e-10"), std::string::npos);
  one_rank.weights.at("head")[5] += 1e-3;
  const std::string text = verdict(false);
  EXPECT_NE(text.find("NOT PROVEN: 2 of 2 layouts differ"), std::string::npos) << text;
  EXPECT_NE(text.find("weights head   DIFFERS"), std::string::npos) << text;
}

TEST(Proofs, OptimizersOnEqualGradientsDoWhatOneRankDoes) {
  const config::Config config =
      first_layout({"parallel.ranks=4", "parallel.tp=2", "parallel.ep=2", "parallel.etp=2"});
  for (const config::Optimizer::Kind kind : proven_optimizers) {
    const Weights want = optimized(on_one_rank(config), kind);
    for (const int zero : {0, 1, 2, 3}) {
      config::Config one = config;
      one.mutable_parallel()->set_zero(zero);
      EXPECT_LT(difference(want, optimized(one, kind)).distance, proof_bound)
          << name_of(kind) << " with zero " << zero;
    }
    config::Config other = config;
    other.mutable_optimizer()->set_weight_decay(0.1 + 1e-8);
    EXPECT_GT(difference(want, optimized(other, kind)).distance, proof_bound) << name_of(kind);
  }
}

TEST(Proofs, AnOptimizerThatDiffersIsNamed) {
  LayoutsOfModel layouts =
      layouts_to_prove(moe({"parallel.ranks=2", "parallel.tp=2", "parallel.ep=2"}));
  const auto told = [&](bool want) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(prove_optimizers(layouts), want);
    return testing::internal::GetCapturedStdout();
  };
  const std::string proven = told(true);
  EXPECT_EQ(proven.find("AdamW on equal gradients: "), 0u) << proven;
  EXPECT_NE(proven.find("\nMuon on equal gradients: "), std::string::npos) << proven;
  layouts.legal.push_back(layouts.legal[0]);
  layouts.legal[1].mutable_run()->set_seed(17);
  const std::string refuted = told(false);
  EXPECT_NE(refuted.find("AdamW, zero 3: "), std::string::npos) << refuted;
  EXPECT_NE(refuted.find("Muon NOT PROVEN: 4 of 8 layouts"), std::string::npos) << refuted;
}

TEST(Proofs, GradientsOfReplicasThatShareAreComparedToo) {
  const config::Config config = first_layout({"parallel.ranks=4", "parallel.zero=1"});
  Descent one_rank = descend(on_one_rank(config));
  EXPECT_TRUE(prove(config, one_rank).holds()) << prove(config, one_rank).text();
  one_rank.steps[1].gradients.at("layers.1.moe.router")[3] += 1e-3;
  EXPECT_EQ(prove(config, one_rank).worst.where, "gradient of layers.1.moe.router, step 2");
}

TEST(Proofs, AnErrorOfOneRankOfTheLayoutIsAFailure) {
  config::Config config = first_layout({"parallel.ranks=4", "parallel.tp=2"});
  config.mutable_train()->set_global_batch(1);
  const Proof proof = prove(config, {});
  EXPECT_FALSE(proof.holds());
  EXPECT_NE(proof.text().find("1 micro-batches for 2 replicas"), std::string::npos) << proof.text();
}

TEST(Proofs, FrozenAndAdaptedParametersAreThoseOfTraining) {
  const Recipe frozen =
      recipe_of(first_layout({"parallel.ranks=2", "train.freeze=head, *.router"}));
  EXPECT_EQ(frozen.frozen,
            (std::vector<std::string>{"layers.1.moe.router", "layers.2.moe.router", "head"}));
  EXPECT_TRUE(frozen.adapted.names.empty());
  const Recipe adapted = recipe_of(
      first_layout({"parallel.ranks=2", "train.lora={rank: 2, alpha: 8, on: layers.0.*.q}"}));
  EXPECT_EQ(adapted.adapted.names, std::vector<std::string>{"layers.0.attention.q"});
  EXPECT_EQ(adapted.adapted.scale, 4);
}

TEST(RandomProofs, ACaseIsAFunctionOfSeedAndNumber) {
  const RandomCases cases(3), same(3), other(4);
  int different = 0;
  for (const std::int64_t number : {0, 59, 200, 5'000'000}) {
    const RandomCase one = cases.of(number);
    EXPECT_TRUE(equal(one.config, same.of(number).config));
    EXPECT_EQ(one.levels, same.of(number).levels);
    different += one.levels != other.of(number).levels;
  }
  EXPECT_GT(different, 2);
  EXPECT_FALSE(equal(cases.of(200).config, cases.of(201).config));
}

TEST(RandomProofs, CasesAreLegalAndCutAlongTwoAxes) {
  const RandomCases cases(5);
  for (std::int64_t number = 0; number < 400; ++number) {
    const RandomCase one = cases.of(number);  // throws for one that is not legal
    const AxisSizes axes = axes_of(one.levels);
    const Layout layout = layout_of(one.config);
    EXPECT_EQ(layout.dp, axes.dp);
    EXPECT_EQ(layout.pp, axes.pp);
    EXPECT_LE(layout.ranks(), 16);
    EXPECT_GE((axes.tp > 1) + (axes.cp > 1) + (axes.dp > 1) + (axes.ep > 1) + (axes.etp > 1) +
                  (axes.pp > 1),
              2);
  }
}

TEST(RandomProofs, CasesOfAFileKeepItsModelAndWhatOverridesGive) {
  const std::string path = folder + "/configs/prove/moe.yaml";
  const Cases cases = cases_of_file(path, {"parallel.ep=2", "train.micro_batch=2"}, 5);
  const config::Config file = load_config(path);
  std::set<std::string> layouts, methods;
  for (std::int64_t number = 0; number < 60; ++number) {
    config::Config one = cases.of(number);
    EXPECT_TRUE(equal(one, cases.of(number)));
    EXPECT_EQ(refusal(one), "");
    EXPECT_EQ(one.parallel().ep(), 2);
    EXPECT_EQ(one.train().micro_batch(), 2);
    EXPECT_EQ(one.model().moe().balance().group(), data_parallel_size(one));
    one.mutable_model()->mutable_moe()->mutable_balance()->set_group(
        file.model().moe().balance().group());
    *one.mutable_parallel() = file.parallel();
    *one.mutable_train() = file.train();
    one.mutable_run()->set_seed(file.run().seed());
    one.mutable_data()->set_across_documents(file.data().across_documents());
    EXPECT_TRUE(equal(one, file));
    layouts.insert(axes_text(cases.of(number)));
    methods.insert(cases.features(number));
  }
  EXPECT_GT(layouts.size(), 10u);
  EXPECT_EQ(methods.size(), 60u);
  EXPECT_EQ(cases.seen(0, 60), std::to_string(layouts.size()) + " different layouts");
}

TEST(RandomProofs, CasesOfAFileHaveAsManyRanksAsOverridesNeed) {
  const std::string path = folder + "/configs/prove/moe.yaml";
  for (const char* change : {"parallel.tp=8", "parallel.ep=8"})
    for (std::int64_t number = 0; number < 10; ++number)
      EXPECT_EQ(cases_of_file(path, {change}, 5).of(number).parallel().ranks(), 8) << change;
}

TEST(RandomProofs, AFileOfWhichNoLayoutIsLegalIsAnError) {
  const Cases cases =
      cases_of_file(folder + "/configs/prove/moe.yaml", {"parallel.ranks=7", "parallel.tp=7"}, 5);
  EXPECT_NE(error_of([&] { cases.of(0); }).find("none is legal, the last not because of"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              cases_of_file(folder + "/configs/prove/moe.yaml", {"parallel.ranks=none"}, 5);
            }).find("override 'parallel.ranks=none'"),
            std::string::npos);
}

TEST(RandomProofs, EveryPairOfFeaturesMeetsInTheFirstCases) {
  const RandomCases cases(1);
  std::vector<RandomCase> first;
  for (std::int64_t number = 0; number < 90; ++number) first.push_back(cases.of(number));
  EXPECT_EQ(cases.pairs_in(first), cases.legal_pairs());
  EXPECT_GT(cases.legal_pairs(), 4000u);
  EXPECT_LT(cases.pairs_in({first[0]}), 600u);
}

// A norm of one number keeps its sign alone: what is left of it is 1e5 times its rounding.
TEST(RandomProofs, RoundingIsWhatOneRankMakesOfLastBits) {
  config::Config config = RandomCases(1).of(0).config;
  const double usual = rounding_of(config, descend(on_one_rank(config))).distance;
  EXPECT_GT(usual, 0);
  EXPECT_LT(usual, proof_bound);
  config.mutable_model()->set_hidden(1);
  const Difference rounding = rounding_of(config, descend(on_one_rank(config)));
  EXPECT_GT(rounding.distance, 100 * usual);
  Proof proof;
  proof.worst.distance = rounding.distance * 9;
  EXPECT_FALSE(proof.is_beyond(rounding));
  proof.worst.distance = std::max(rounding.distance, proof_bound) * 11;
  EXPECT_TRUE(proof.is_beyond(rounding));
  EXPECT_EQ(rounding_text(proof, rounding).find("rounding alone"), std::string::npos);
  proof.worst.distance = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(proof.is_beyond(rounding));
  proof.worst.distance = 0;
  EXPECT_FALSE(proof.is_beyond(rounding));
  proof.error = "no memory";
  EXPECT_TRUE(proof.is_beyond(rounding));
}

TEST(RandomProofs, WhatFailsIsShrunkToWhatItNeeds) {
  int asked = 0;
  const auto fails = [&](const config::Config& c) {
    ++asked;
    return c.parallel().tp() > 1 && c.model().layers() > 1 && c.model().has_moe();
  };
  // Of several stages, of uneven numbers of layers.
  const auto has_stages = [](const config::Config& c) {
    return c.parallel().pp() > 2 && c.parallel().chunks() > 1 &&
           c.parallel().stage_layers() != "even";
  };
  const RandomCases cases(2);
  std::int64_t number = 0;
  while (!fails(cases.of(number).config) || !has_stages(cases.of(number).config)) ++number;
  asked = 0;
  const config::Config small = shrink(cases.of(number).config, fails);
  EXPECT_LT(asked, 200);
  EXPECT_TRUE(fails(small));
  EXPECT_EQ(refusal(small), "");
  EXPECT_EQ(small.model().layers(), 2);
  EXPECT_EQ(small.parallel().cp() * small.parallel().ep() * small.parallel().etp(), 1);
  EXPECT_EQ(small.parallel().ranks(), small.parallel().tp());
  EXPECT_EQ(small.parallel().pp() * small.parallel().chunks(), 1);
  EXPECT_EQ(small.parallel().schedule(), config::Parallel::one_f_one_b);
  EXPECT_EQ(small.parallel().stage_layers(), "even");
  EXPECT_EQ(small.train().global_batch(), 1);
  EXPECT_FALSE(small.model().has_mla());
  EXPECT_EQ(small.model().moe().balance().kind(), config::Balance::none);
  const config::Config as_it_was =
      shrink(cases.of(number).config, [](const config::Config&) { return false; });
  EXPECT_TRUE(equal(as_it_was, cases.of(number).config));
}

// Cases that failed once, or that are worth keeping.
TEST(RandomProofs, SavedCasesHold) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/tests/prove")) {
    if (entry.path().extension() != ".yaml") continue;
    const Proof proof = prove(load_config(entry.path().string()));
    EXPECT_TRUE(proof.holds()) << entry.path() << ": " << proof.text();
    ++count;
  }
  EXPECT_GT(count, 0);
}

}  // namespace
}  // namespace pf
