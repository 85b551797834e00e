// The program as people start it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "launch/config.h"
#include "launch/config_docs.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

class CommandLine : public testing::Test {
 protected:
  // Through the shell; $p is the program. Started in the folder of the test.
  Outcome shell(const std::string& command) const { return in_shell(here, command); }
  Outcome run(const std::string& arguments) const { return shell("$p " + arguments); }
  std::string message(const std::string& arguments) const { return run(arguments).err; }

  TemporaryFolder here;
};

TEST_F(CommandLine, WithoutArgumentsShowsHelpAndIsWrongUsage) {
  const Outcome outcome = run("");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(contains(outcome.err, "pentafold train configs/quickstart.yaml")) << outcome.err;
}

TEST_F(CommandLine, HelpIsTheSameEverywhereAndDone) {
  const Outcome outcome = run("--help");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(contains(outcome.out, "Exit codes:"));
  for (const char* same : {"-h", "train --help", "config -h", "train x.yaml --ranks 2 --help"})
    EXPECT_EQ(run(same).out, outcome.out) << same;
}

TEST_F(CommandLine, HelpIsReadableOn100Columns) {
  std::istringstream help(run("--help").out);
  for (std::string line; std::getline(help, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST_F(CommandLine, VersionNamesWhatIsUnderneath) {
  const Outcome outcome = run("--version");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out.find("pentafold 0."), 0u) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\nCPU: ")) << outcome.out;
  EXPECT_TRUE(contains(outcome.out, "\nCUDA: ")) << outcome.out;
}

TEST_F(CommandLine, TheProcessorsLevelMayBeCapped) {
  const Outcome capped = shell("PENTAFOLD_CPU=sse2 $p --version");
  EXPECT_TRUE(contains(capped.out, "\nCPU: sse2\n")) << capped.out << capped.err;
  here.write("run.yaml", small_run);
  const Outcome wrong = shell("PENTAFOLD_CPU=fast $p config run.yaml");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_EQ(wrong.err, "pentafold: PENTAFOLD_CPU='fast': wants sse2, avx2 or avx512\n");
}

TEST_F(CommandLine, WrongUsageSaysWhatMayHaveBeenMeant) {
  EXPECT_EQ(run("trian x.yaml").code, 2);
  EXPECT_EQ(message("trian x.yaml"),
            "pentafold: unknown command 'trian'; did you mean train? (see pentafold --help)\n");
  EXPECT_EQ(
      message("x.yaml --ranks 2"),
      "pentafold: unknown command 'x.yaml'; did you mean train x.yaml? (see pentafold --help)\n");
  EXPECT_EQ(message("xylophone"),
            "pentafold: unknown command 'xylophone' (see pentafold --help)\n");
  EXPECT_EQ(
      message("--versoin"),
      "pentafold: unknown option '--versoin'; did you mean --version? (see pentafold --help)\n");
  EXPECT_EQ(message("help"),
            "pentafold: unknown command 'help'; did you mean --help? (see pentafold --help)\n");
  EXPECT_EQ(message("train x.yaml --rank 2"),
            "pentafold: unknown option '--rank'; did you mean --ranks? (see pentafold --help)\n");
  EXPECT_EQ(message("train x.yaml --rank=2"),
            "pentafold: unknown option '--rank=2'; did you mean --ranks? (see pentafold --help)\n");
  EXPECT_EQ(run("train x.yaml --rank 2").code, 2);
}

TEST_F(CommandLine, AMissingFileOrNumberIsWrongUsage) {
  for (const char* arguments : {"train", "config", "train --ranks 2", "train x.yaml --ranks"}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_TRUE(contains(outcome.err, "(see pentafold --help)")) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(CommandLine, AConfigurationThatIsWrongIsWrongUsage) {
  here.write("run.yaml", small_run);
  EXPECT_EQ(run("train nowhere.yaml").code, 2);
  EXPECT_EQ(message("train nowhere.yaml"),
            "pentafold: nowhere.yaml: cannot open the configuration: No such file or directory\n");
  EXPECT_EQ(run("config run.yaml train.step=3").code, 2);
  EXPECT_TRUE(contains(message("config run.yaml train.step=3"), "did you mean train.steps?"));
  EXPECT_EQ(run("config run.yaml --ranks many").code, 2);
  EXPECT_TRUE(contains(message("config run.yaml --ranks many"), "parallel.ranks=many"));
}

TEST_F(CommandLine, ConfigPrintsWhatLoadsAsTheSame) {
  const std::string path = here.write("run.yaml", small_run);
  const Outcome outcome =
      run("config run.yaml train.steps=7 'run.name=a b' --ranks 2 --threads=3 train.steps=8");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, to_yaml(load_config(path, {"train.steps=8", "run.name=a b",
                                                    "parallel.ranks=2", "parallel.threads=3"})));
}

TEST_F(CommandLine, ConfigDocsAreTheReference) {
  EXPECT_EQ(run("config --docs").out, config_reference());
}

TEST_F(CommandLine, TheSourceIsNamedOnlyWhereAskedFor) {
  EXPECT_FALSE(contains(message("train nowhere.yaml"), ".cpp:"));
  const Outcome outcome = shell("PENTAFOLD_DEBUG=1 $p train nowhere.yaml");
  EXPECT_TRUE(contains(outcome.err, "launch/config.cpp:")) << outcome.err;
}

TEST_F(CommandLine, AReaderThatWentAwayIsNoFailure) {
  EXPECT_EQ(shell("{ sleep 0.1; $p --help; echo $? >code; } | true; sleep 0.4").err, "");
  EXPECT_EQ(here.read("code"), "0\n");
}

TEST_F(CommandLine, AFullDiskIsAFailure) {
  const Outcome outcome = shell("$p --help >/dev/full");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "pentafold: can't write to standard output: No space left on device\n");
}

// ---- training ----

class Training : public CommandLine {
 protected:
  void SetUp() override { write_small_run(here); }

  // The exit code of a run that gets the signals one after another once it has trained a step.
  int code_after(const std::vector<int>& signals) const {
    const std::string program = PENTAFOLD_BINARY, folder = here.path();
    std::filesystem::remove_all(here.path("runs"));
    const pid_t child = fork();
    if (child == 0) {
      const bool is_ready = chdir(folder.c_str()) == 0 && freopen("out", "w", stdout) != nullptr;
      if (is_ready)
        execl(program.c_str(), "pentafold", "train", "run.yaml", "train.steps=100000000", nullptr);
      _exit(127);
    }
    for (int i = 0; i < 2000 && here.read("runs/run/metrics.jsonl").empty(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (const int signal : signals) kill(child, signal);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
};

TEST_F(Training, WritesItsFolderAndIsDone) {
  const Outcome outcome = run("train run.yaml train.steps=3 --ranks 2");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(contains(outcome.out, "done: 3 steps\n")) << outcome.out;
  EXPECT_TRUE(contains(here.read("runs/run/metrics.jsonl"), "{\"step\":3,\"loss\":"));
}

TEST_F(Training, MovesAFolderThatIsThereAside) {
  run("train run.yaml train.steps=1");
  const Outcome outcome = run("train run.yaml train.steps=2");
  EXPECT_TRUE(contains(outcome.out, "runs/run exists: moved to runs/run.1\n")) << outcome.out;
  EXPECT_FALSE(contains(here.read("runs/run.1/metrics.jsonl"), "\"step\":2"));
}

TEST_F(Training, ThatFailsSaysSo) {
  here.write("runs", "a file");
  const Outcome outcome = run("train run.yaml");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err,
            "pentafold: run.yaml:19: run.folder: runs/run: can't be made: Not a directory\n");
}

TEST_F(Training, ASignalEndsItAfterAWholeStep) {
  EXPECT_EQ(code_after({SIGTERM}), 143);
  EXPECT_TRUE(contains(here.read("out"), "ended by SIGTERM after step ")) << here.read("out");
  EXPECT_EQ(code_after({SIGINT, SIGINT}), 130);
}

TEST_F(Training, WritesNothingIntoItsFilesWhenStandardOutputIsClosed) {
  const Outcome outcome = shell("$p train run.yaml train.steps=2 >&-");
  EXPECT_EQ(outcome.code, 0);
  const std::string metrics = here.read("runs/run/metrics.jsonl");
  EXPECT_EQ(metrics.find("{\"step\":1,"), 0u) << metrics;
  EXPECT_FALSE(contains(metrics, "grad norm")) << metrics;
}

TEST(Freeze, TheProgramTrainsTheRest) {
  TemporaryFolder here;
  write_small_run(here);
  const Outcome run = in_shell(here,
                               "$p train run.yaml train.steps=3 "
                               "'train.freeze=embedding, layers.0.*, layers.1.mlp.gate'");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(contains(here.read("runs/run/config.yaml"), "freeze: embedding, layers.0.*"));
  const Outcome wrong = in_shell(here, "$p train run.yaml 'train.freeze=layers.7.*'");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_TRUE(contains(wrong.err, "train.freeze: found 'layers.7.*'")) << wrong.err;
}

TEST(Lora, TheProgramSaysWhatItTrainsAndWhatItCannot) {
  TemporaryFolder here;
  write_small_run(here);
  const Outcome run =
      in_shell(here, "$p train run.yaml train.steps=3 'train.lora={rank: 2}' --ranks 2");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(contains(run.out, " trained; ")) << run.out;
  EXPECT_TRUE(contains(here.read("runs/run/config.yaml"), "on: layers.*.attention.*"));
  const Outcome again = in_shell(here, "$p train runs/run/config.yaml run.folder=second");
  EXPECT_EQ(again.code, 0) << again.err;
  const Outcome wrong = in_shell(here, "$p train run.yaml 'train.lora={rank: 2, on: layers.7.*}'");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_TRUE(contains(wrong.err, "train.lora.on: found 'layers.7.*'")) << wrong.err;
}

}  // namespace
}  // namespace pf
