// The program under mpirun.
#include <gtest/gtest.h>

#include <chrono>
#include <regex>
#include <string>
#include <utility>

#include "tests/launch/shell.h"

namespace pf {
namespace {

class MpiRun : public testing::Test {
 protected:
  void SetUp() override { write_small_run(here); }

  // Through the shell: train N ARGUMENTS trains with N ranks and leaves the process number of rank
  // 1 in the file pid.
  Outcome shell(const std::string& command) const {
    return in_shell(here,
                    "train() { n=$1; shift; '" PENTAFOLD_MPIRUN
                    "' --quiet --allow-run-as-root --oversubscribe --bind-to none "
                    "--mca mpi_yield_when_idle 1 --mca btl_vader_single_copy_mechanism none -n $n "
                    "'" PENTAFOLD_SOURCE_DIR
                    "/launch/rank' sh -c '[ $OMPI_COMM_WORLD_RANK != 1 ] || echo $$ >pid; "
                    "exec $p train run.yaml \"$@\"' train train.global_batch=48 \"$@\"; }; " +
                        command);
  }
  // What rank 1 gets once a step is done; the run has no end of its own.
  Outcome after_signal(const std::string& signal, const std::string& arguments) const {
    return shell("train 3 train.steps=100000000 " + arguments +
                 " & until grep -qs loss runs/run/metrics.jsonl; do sleep 0.05; done; kill -" +
                 signal + " $(cat pid); wait $!");
  }
  // Without what a clock decides.
  std::string metrics() const {
    return std::regex_replace(
        here.read("runs/run/metrics.jsonl"),
        std::regex(R"re("(tokens_per_s|resident)":[^,}]*|"seconds":\{[^}]*\})re"), "");
  }

  // Each step's, of all that metrics say. The norm is added up by slices, which differ, and weights
  // travel instead of sums.
  std::string losses() const {
    return std::regex_replace(
        metrics(), std::regex(R"re("grad_norm":[^,}]*|"(memory|sent)":\{[^}]*\})re"), "");
  }

  TemporaryFolder here;
};

TEST_F(MpiRun, StatesThatReplicasDivideGiveTheLossesOfWholeOnes) {
  for (const std::string kind : {"adamw", "sgd", "muon train.clip=0"}) {
    const std::string arguments = " train.steps=3 optimizer.kind=" + kind;
    ASSERT_EQ(shell("$p train run.yaml train.global_batch=48 --ranks 3" + arguments).code, 0);
    const std::string wanted = losses();
    const Outcome processes = shell("train 3 parallel.zero=1" + arguments);
    ASSERT_EQ(processes.code, 0) << processes.err;
    EXPECT_EQ(losses(), wanted) << kind;
    EXPECT_EQ(shell("train 4 parallel.zero=1 parallel.zero_shard=2" + arguments).code, 0);
  }
}

TEST_F(MpiRun, LossesAreBitwiseThoseOfThreadRanks) {
  for (const std::string ranks : {"2", "3", "4", "8"}) {
    const std::string arguments =
        " train.steps=4 'model.moe={experts: 8, top_k: 2, ffn: 32}' run.precision=bf16";
    const Outcome threads =
        shell("$p train run.yaml train.global_batch=48 --ranks " + ranks + arguments);
    ASSERT_EQ(threads.code, 0) << threads.err;
    const std::string wanted = metrics();
    const Outcome processes = shell("train " + ranks + arguments);
    ASSERT_EQ(processes.code, 0) << processes.err;
    EXPECT_EQ(processes.err, "");
    EXPECT_TRUE(contains(wanted, "{\"step\":4,\"loss\":")) << wanted;
    EXPECT_EQ(metrics(), wanted) << ranks << " ranks";
    ASSERT_EQ(shell("train " + ranks + arguments + " debug.check_collectives=true").code, 0);
    EXPECT_EQ(metrics(), wanted) << ranks << " ranks, checked";
  }
}

TEST_F(MpiRun, MetricsOfEachLayoutAreBitwiseThoseOfThreadRanks) {
  const std::string model =
      " train.steps=3 train.global_batch=8 run.precision=bf16 'model.moe={experts: 8, top_k: 2, "
      "ffn: 32, z_loss: 0.01, balance: {kind: mixed, weight: 0.1}}' ";
  const std::pair<const char*, const char*> layouts[] = {
      {"2", "tp: 2, zero: 1"},
      {"2", "cp: 2"},
      {"2", "cp: 2, cp_method: ring, ep: 2"},
      {"2", "cp: 2, cp_method: ulysses, etp: 2"},
      {"2", "ep: 2, zero: 1"},
      {"2", "etp: 2"},
      {"4", "tp: 2, ep: 4"},
      {"4", "cp: 4, cp_method: two_level"},
      {"4", "tp: 2, cp: 2, etp: 2, ep: 2, zero: 1"},
      {"2", "pp: 2, chunks: 2, schedule: zbv"},
      {"4", "pp: 2, ep: 2, schedule: zbh1, zero: 3"},
      {"4", "tp: 2, pp: 2, schedule: interleaved, chunks: 2, dispatcher: all_gather"}};
  for (const auto& [ranks, axes] : layouts) {
    SCOPED_TRACE(axes);
    const std::string arguments = model + "'parallel={" + axes + "}'";
    const Outcome threads = shell("$p train run.yaml" + arguments + " --ranks " + ranks);
    ASSERT_EQ(threads.code, 0) << threads.err;
    const std::string wanted = metrics();
    EXPECT_TRUE(contains(wanted, "{\"step\":3,\"loss\":")) << wanted;
    const Outcome processes = shell(std::string("train ") + ranks + arguments);
    ASSERT_EQ(processes.code, 0) << processes.err;
    EXPECT_EQ(metrics(), wanted);
  }
}

TEST_F(MpiRun, TheLauncherDecidesHowManyRanksThereAre) {
  const Outcome outcome = shell("train 2 train.steps=1 parallel.ranks=7");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "2 ranks (dp 2)")) << outcome.out;
  const Outcome refused = shell("train 2 train.steps=1 --ranks 2");
  EXPECT_EQ(refused.code, 2);
  EXPECT_EQ(
      refused.err,
      "pentafold: rank 0: --ranks 2: MPI has 2 ranks already; leave --ranks out, or change the "
      "launcher's number\n");
}

TEST_F(MpiRun, WhatAllRanksFindIsSaidOnce) {
  const Outcome key = shell("train 3 train.stepz=1");
  EXPECT_EQ(key.code, 2);
  EXPECT_EQ(key.err,
            "pentafold: rank 0: override 'train.stepz=1': train.stepz: unknown key; did you mean "
            "train.steps?\n");
  const Outcome small = shell("train 3 cluster.memory=1MiB");
  EXPECT_EQ(small.code, 2);
  EXPECT_TRUE(contains(
      small.err,
      "pentafold: rank 0: override 'parallel.ranks=3': parallel.ranks: found 3; a rank needs at "
      "least 1.8 MiB for weights, gradients and optimizer, and has "
      "1.0 MiB (cluster.memory); not one fits\n"))
      << small.err;
  const Outcome memory = shell("train 3 cluster.memory=2MiB");
  EXPECT_EQ(memory.code, 1);
  EXPECT_TRUE(contains(memory.err, "pentafold: rank 0: out of memory: ")) << memory.err;
  EXPECT_TRUE(contains(memory.err, "of 2097152 that a rank may use\n")) << memory.err;
}

double seconds(const std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST_F(MpiRun, AKilledRankEndsAllAndIsNamedLast) {
  const Outcome outcome = after_signal("KILL", "");
  EXPECT_EQ(outcome.code, 137);
  EXPECT_TRUE(
      outcome.err.ends_with("pentafold: rank 1: killed by SIGKILL; the kernel does that when "
                            "memory runs out\n"))
      << outcome.err;
}

TEST_F(MpiRun, ARankThatHangsIsNamedByTheWatchdog) {
  const auto begin = std::chrono::steady_clock::now();
  const Outcome outcome = after_signal("STOP", "debug.watchdog=1");
  EXPECT_LT(seconds(begin), 30);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_TRUE(contains(outcome.err, "pentafold: rank 0: waits in ")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, " for over 1 s; missing: rank 1")) << outcome.err;
  EXPECT_TRUE(contains(here.read("runs/run/waiting.0.txt"), "; waits\n"));
}

TEST_F(MpiRun, ASignalEndsItAfterAWholeStep) {
  const Outcome outcome = after_signal("USR1", "");
  EXPECT_EQ(outcome.code, 138) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(contains(outcome.out, "ended by ")) << outcome.out;
}

TEST_F(MpiRun, AnSrunWithoutMpiIsRefused) {
  const Outcome outcome = shell("SLURM_STEP_NUM_TASKS=4 $p train run.yaml");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(
      outcome.err,
      "pentafold: srun started 4 tasks without MPI, each of which would train alone; use srun "
      "--mpi=pmix\n");
}

}  // namespace
}  // namespace pf
