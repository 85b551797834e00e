// `pentafold data` as people start it.
#include "launch/data_command.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "launch/indexed.h"
#include "tests/launch/shell.h"
#include "tests/launch/terminal.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

class DataProgram : public testing::Test {
 protected:
  void SetUp() override {
    here.write("a.txt", "one\ftwo\f");
    here.write("b.jsonl", "{\"prompt\":\"what?\",\"answer\":\"that\"}\n");
  }
  Outcome run(const std::string& arguments) const { return in_shell(here, "$p data " + arguments); }
  bool has_outputs() const {
    for (const auto& entry : fs::directory_iterator(here.path()))
      if (entry.path().filename().string().starts_with("made")) return true;
    return false;
  }

  TemporaryFolder here;
};

TEST_F(DataProgram, SaysWhatItMadeInOneLine) {
  const Outcome text = run("a.txt --output made");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(text.err, "");
  EXPECT_EQ(text.out.find("made.bin, made.idx: 2 documents, 8 tokens (bytes), largest id 119; 8 B "
                          "in "),
            0u)
      << text.out;
  EXPECT_TRUE(text.out.ends_with(" MB/s\n")) << text.out;
  const Outcome both = run("a.txt b.jsonl --output made --force --threads 2 --tokenizer bytes");
  EXPECT_EQ(both.code, 0) << both.err;
  EXPECT_EQ(both.out.find("made.bin, made.idx: 3 documents, 18 tokens (bytes), largest id 119; "
                          "13 are targets, by made.mask; 43 B in "),
            0u)
      << both.out;
  EXPECT_EQ(here.read("made.bin"), "one\ftwo\fwhat?that\f");
}

TEST_F(DataProgram, TheNameOfOneOfTheFilesStandsForThePrefix) {
  for (const char* output : {"made", "made.bin", "made.idx"}) {
    EXPECT_EQ(run(std::string("a.txt --force --output ") + output).code, 0);
    EXPECT_EQ(IndexedTokens(here.path("made")).tokens(), 8u);
    for (const char* name : {"made.bin", "made.idx", "made.json"}) fs::remove(here.path(name));
    EXPECT_FALSE(has_outputs());
  }
}

TEST_F(DataProgram, WhatIsWrongIsToldInALineWithExitCode2AndNothingIsLeft) {
  struct Mistake {
    std::string arguments, fact;
  };
  here.write("empty.txt", "");
  here.write("empty.jsonl", "");
  here.write("blank.jsonl", "\n \n");
  here.write("bad.jsonl", "{\"text\":\"a\"}\n{\"text\":7}\n");
  here.write("none/.hidden", "text");
  here.write("none/binary", std::string("\0", 1));
  mkfifo(here.path("pipe").c_str(), 0600);
  const std::string output = " --output made";
  const std::vector<Mistake> mistakes{
      {"", "name the INPUT"},
      {"a.txt", "name the --output PREFIX"},
      {"a.txt --output", "--output"},
      {"a.txt --output nowhere/made", "nowhere: there is no such folder"},
      {"a.txt --output a.txt/made", "a.txt: there is no such folder"},
      {"a.txt --output /proc/made", "/proc/made.bin: can't be made: "},
      {"a.txt --output ./", "--output './' names no file"},
      {"a.txt --output .bin", "names no file"},
      {"nowhere.txt" + output, "nowhere.txt: there is no such file or folder"},
      {"a.txt empty.txt" + output, "empty.txt: is empty; text is wanted"},
      {"empty.jsonl" + output, "empty.jsonl: is empty"},
      {"blank.jsonl" + output, "blank.jsonl: has no documents"},
      {"none" + output, "none: none of its 1 files has text"},
      {"pipe" + output, "pipe: is not a regular file"},
      {"a.txt bad.jsonl" + output, "bad.jsonl:2: found a number for \"text\", wanted"},
      {"a.txt --tokenizer bpe" + output, "tokenizer 'bpe' is unknown; bytes is wanted"},
      {"a.txt --threads 0" + output, "--threads: found 0, wanted 1 to 1024"},
      {"a.txt --threads many" + output, "--threads: found many, wanted 1 to 1024"},
      {"a.txt --threads 1025" + output, "--threads: found 1025"},
      {"a.txt --outptu made", "did you mean --output?"},
  };
  for (const Mistake& mistake : mistakes) {
    const Outcome outcome = run(mistake.arguments);
    EXPECT_EQ(outcome.code, 2) << mistake.arguments;
    EXPECT_EQ(outcome.out, "") << mistake.arguments;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, mistake.fact))
        << mistake.fact << " is not in: " << outcome.err;
    EXPECT_FALSE(has_outputs()) << mistake.arguments;
  }
}

TEST_F(DataProgram, FilesThatAreThereAreReplacedOnlyByForce) {
  for (const char* name : {"made.bin", "made.idx", "made.json", "made.mask"}) {
    here.write(name, "old");
    const Outcome outcome = run("a.txt --output made");
    EXPECT_EQ(outcome.code, 2);
    EXPECT_TRUE(contains(outcome.err, std::string(name) + ": exists; ")) << outcome.err;
    EXPECT_EQ(here.read(name), "old");
    EXPECT_EQ(run("a.txt --output made --force").code, 0);
    for (const char* made : {"made.bin", "made.idx", "made.json"}) fs::remove(here.path(made));
    EXPECT_FALSE(has_outputs()) << name;
  }
}

TEST_F(DataProgram, AFileThatCantBeMadeIsNamed) {
  const std::string too_long(254, 'n');
  const Outcome named = run("a.txt --output " + too_long);
  EXPECT_EQ(named.code, 2);
  EXPECT_TRUE(contains(named.err, too_long + ".bin: can't be made: File name too long"))
      << named.err;
  if (geteuid() == 0) return;  // root writes into any folder
  fs::create_directory(here.path("closed"));
  chmod(here.path("closed").c_str(), 0500);
  const Outcome closed = run("a.txt --output closed/made");
  EXPECT_EQ(closed.code, 2);
  EXPECT_TRUE(contains(closed.err, "closed/made.bin: can't be made: Permission denied"))
      << closed.err;
}

TEST_F(DataProgram, AFullDiskIsAFailureThatLeavesNothing) {
  here.write("large.txt", std::string(100000, 'x'));
  const Outcome outcome = in_shell(here, "ulimit -f 64; $p data large.txt --output made");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "pentafold: made.bin: can't be written: File too large\n");
  EXPECT_FALSE(has_outputs());
}

TEST_F(DataProgram, ASignalEndsItAndLeavesNothing) {
  here.write("a.jsonl", [] {
    std::string lines;
    for (int i = 0; i < 400000; ++i) lines += "{\"text\":\"some words to be read by somebody\"}\n";
    return lines;
  }());
  std::string inputs;
  for (int i = 0; i < 60; ++i) inputs += " a.jsonl";
  for (const auto& [name, code] : {std::pair{"INT", 130}, std::pair{"TERM", 143}}) {
    // The shell waits for the file to grow, so that the signal meets a conversion.
    const Outcome outcome =
        in_shell(here, "$p data" + inputs +
                           " --output made --threads 1 & pid=$!; i=0; "
                           "while [ $i -lt 3000 ] && ! [ -s made.bin.tmp-$pid ]; do sleep 0.01; "
                           "i=$((i+1)); done; kill -" +
                           name + " $pid; wait $pid");
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.err,
              std::string("pentafold: ended by SIG") + name + "; nothing is written\n");
    EXPECT_EQ(outcome.out, "");
    EXPECT_FALSE(has_outputs());
  }
}

TEST_F(DataProgram, ATerminalShowsProgressInPlaceAndThenTheLine) {
  here.write("large.txt", std::string(3 << 20, 'x'));
  Terminal terminal(70);
  const std::string folder = here.path();
  const pid_t child = fork();
  if (child == 0) {
    const bool is_ready =
        chdir(folder.c_str()) == 0 && dup2(fileno(terminal.out()), STDOUT_FILENO) >= 0;
    if (is_ready)
      execl(PENTAFOLD_BINARY, "pentafold", "data", "large.txt", "--output", "made", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(contains(terminal.bytes(), "\r\033[K   0%  0 B of 3.0 MiB  0 documents  0 MB/s"))
      << terminal.bytes();
  const std::vector<std::string> screen = terminal.screen();
  EXPECT_EQ(screen.front().find("made.bin, made.idx: 768 documents, 3145728 tokens"), 0u)
      << screen.front();
}

}  // namespace
}  // namespace pf
