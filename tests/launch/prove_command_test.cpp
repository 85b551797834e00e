// `pentafold prove` as people start it.
#include <gtest/gtest.h>

#include "tests/launch/shell.h"

namespace pf {
namespace {

class ProveCommandLine : public testing::Test {
 protected:
  Outcome prove(const std::string& arguments) const {
    return in_shell(here, "c=" PENTAFOLD_SOURCE_DIR "/configs/prove; $p prove " + arguments);
  }
  std::string message(const std::string& arguments) const {
    const Outcome outcome = prove(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    return outcome.err;
  }

  const TemporaryFolder here;
};

TEST_F(ProveCommandLine, ALineALayoutAndAVerdict) {
  const Outcome outcome = prove("$c/dense.yaml --ranks 2");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "; f64, 2 ranks against 1\n")) << outcome.out;
  for (const char* layout : {"\ntp 1  cp 1  dp 2 ", "\ntp 1  cp 2  dp 1 ", "\ntp 2  cp 1  dp 1 ",
                             "\ntp 1  cp 1  dp 1   etp 1  ep 1  edp 1   pp 2  1f1b "})
    EXPECT_TRUE(contains(outcome.out, layout)) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\nproven: 4 layouts are one rank within 1e-10"))
      << outcome.out;
  for (const char* optimizer : {"\nAdamW on equal gradients: ", "\nMuon on equal gradients: "})
    EXPECT_TRUE(contains(outcome.out, optimizer)) << outcome.out;
}

TEST_F(ProveCommandLine, ALargeJobIsProvenWithSmallSizes) {
  const Outcome outcome = prove(
      "$c/../mixtral_8x22b.yaml --ranks 32 parallel.tp=2 parallel.ep=8 parallel.pp=4 "
      "parallel.zero=1");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("mixtral_8x22b: 141G parameters, 256 x 4096 tokens a step"), 0u)
      << outcome.out;
  for (const char* line :
       {"\nkey ", "\nmodel.hidden         6144  10\n", "\nmodel.vocabulary    32000  24\n",
        "\ntp 2  cp 1  dp 4   etp 1  ep 8  edp 1   pp 4  1f1b   ",
        "\nproven: 1 layout is one rank within 1e-10", "\nAdamW on equal", "\nMuon on equal"})
    EXPECT_TRUE(contains(outcome.out, line)) << line << " in\n" << outcome.out;
  EXPECT_TRUE(contains(message("$c/../mixtral_8x22b.yaml --ranks 32 parallel.tp=5"), "parallel."));
}

// A layer norm of two numbers is 1 and -1 whatever they are: gradients are what rounding leaves.
TEST_F(ProveCommandLine, WhatFailsIsComparedWithRounding) {
  const Outcome outcome = prove("$c/dense.yaml --ranks 2 parallel.tp=2 model.hidden=2");
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "NOT PROVEN: 1 of 1 layouts differ")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\n  one rank with other last bits in its weights: "))
      << outcome.out;
}

TEST_F(ProveCommandLine, ATableWhereSumsAreRounded) {
  const Outcome outcome = prove("$c/moe.yaml --ranks 2 parallel.ep=2 --precision f32");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "\n| layout | loss |")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\n| 1 rank in f64 |")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\n| tp 2  cp 1  dp 1   etp 1  ep 2  edp 1 |")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\n| worst of 3 layouts |")) << outcome.out;
}

TEST_F(ProveCommandLine, WrongInputIsSaidOnce) {
  EXPECT_TRUE(contains(message(""), "name the FILE to prove"));
  EXPECT_TRUE(contains(message("none.yaml --ranks 2"), "none.yaml: cannot open"));
  EXPECT_TRUE(contains(message("$c/moe.yaml"), "found 1, wanted 2 to 64 ranks"));
  EXPECT_TRUE(
      contains(message("$c/moe.yaml --ranks 2 --precision f16"), "found 'f16', wanted f64"));
  EXPECT_TRUE(contains(message("$c/moe.yaml --ranks 8 parallel.ep=4 parallel.etp=4"), "parallel."));
  EXPECT_TRUE(contains(message("none.yaml --random 3"), "none.yaml: cannot open"));
  EXPECT_TRUE(contains(message("$c/moe.yaml --random 3 --ranks 7 parallel.tp=7"), "none is legal"));
  EXPECT_TRUE(contains(message("--random 3 --ranks 2"), "ranks of their own"));
  EXPECT_TRUE(contains(message("--random -1"), "found -1, wanted 1 or more"));
  EXPECT_TRUE(contains(message("--random 3 --seed -1"), "wanted 0 or more"));
}

TEST_F(ProveCommandLine, RandomCasesEndWithTheirNumberAndPairs) {
  const Outcome outcome = prove("--random 2 --seed 9 --case 70");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("2 random cases of seed 9 from 70 in "), 0u) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "pairs of features met\n")) << outcome.out;
}

TEST_F(ProveCommandLine, RandomCasesOfAFileEndWithTheirLayouts) {
  const Outcome outcome = prove("$c/moe.yaml parallel.tp=1 --random 2 --seed 9");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "2 random cases of ")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, " different layouts\n")) << outcome.out;
}

TEST_F(ProveCommandLine, ForeverEndsWithASignalAndAVerdict) {
  const Outcome outcome = in_shell(
      here, "timeout --preserve-status -s INT 4 $p prove --forever --seed 3 --output found");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "random cases of seed 3 from 0 in ")) << outcome.out;
  EXPECT_EQ(in_shell(here, "timeout --preserve-status -s INT 4 $p prove --random 100000").code,
            130);
}

}  // namespace
}  // namespace pf
