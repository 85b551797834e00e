#include "launch/prove_checkpoint.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "launch/prove_file.h"
#include "tests/launch/full_disk.h"
#include "tests/launch/shell.h"

namespace pf {
namespace {

const std::string folder = PENTAFOLD_SOURCE_DIR;

config::Config config_of(const std::string& file, const std::vector<std::string>& overrides) {
  return layouts_to_prove(file_to_prove(folder + "/configs/prove/" + file, overrides))
      .legal.front();
}

// Where proofs put their files, until the test ends.
class ScratchPlace {
 public:
  ScratchPlace() { setenv("TMPDIR", here_.path().c_str(), 1); }
  ScratchPlace(const ScratchPlace&) = delete;
  ScratchPlace& operator=(const ScratchPlace&) = delete;
  ~ScratchPlace() { unsetenv("TMPDIR"); }
  bool is_empty() const { return std::filesystem::is_empty(here_.path()); }

 private:
  TemporaryFolder here_;
};

TEST(ProvenCheckpoints, WhoGoesOnIsAFunctionOfTheLayout) {
  std::set<std::int64_t> ranks, stages;
  for (const config::Config& config :
       layouts_to_prove(file_to_prove(folder + "/configs/prove/moe.yaml", {"parallel.ranks=8"}))
           .legal) {
    const config::Config other = layout_to_go_on(config);
    EXPECT_EQ(refusal(other), "");
    EXPECT_EQ(axes_text(other), axes_text(layout_to_go_on(config)));
    ranks.insert(other.parallel().ranks());
    stages.insert(other.parallel().pp());
  }
  EXPECT_GT(ranks.size(), 3u);
  EXPECT_GT(stages.size(), 1u);
}

TEST(ProvenCheckpoints, AnotherLayoutGoesOnAsIfNobodyHadInterrupted) {
  for (const std::vector<std::string>& layout :
       {std::vector<std::string>{"parallel.ranks=4", "parallel.tp=2", "parallel.ep=2"},
        {"parallel.ranks=4", "parallel.pp=2", "parallel.zero=3"},
        {"parallel.ranks=6", "parallel.cp=2", "parallel.ep=2", "parallel.zero=1",
         "train.global_batch=6"}}) {
    const config::Config config = config_of("moe.yaml", layout);
    const Descent one_rank = descend(on_one_rank(config));
    const Proof proof = prove_going_on(config, one_rank);
    EXPECT_TRUE(proof.holds()) << proof.text();
  }
}

TEST(ProvenCheckpoints, FilesGoWithTheProof) {
  const ScratchPlace scratch;
  const config::Config config = config_of("dense.yaml", {"parallel.ranks=2", "parallel.tp=2"});
  const Descent one_rank = descend(on_one_rank(config));
  EXPECT_TRUE(prove_going_on(config, one_rank).holds());
  EXPECT_TRUE(scratch.is_empty());
  const FullDisk full(4096);
  const Proof proof = prove_going_on(config, one_rank);
  EXPECT_TRUE(contains(proof.error, "part-0000")) << proof.text();
  EXPECT_TRUE(scratch.is_empty());
}

TEST(ProvenCheckpoints, FilesGoWhenASignalEndsTheProof) {
  const TemporaryFolder here;
  std::filesystem::create_directory(here.path("scratch"));
  // The signal comes when there are files.
  const Outcome outcome = in_shell(
      here, "TMPDIR=$PWD/scratch $p prove '" + folder +
                "/configs/prove/dense.yaml' --ranks 2 & "
                "while [ -z \"$(ls scratch)\" ]; do sleep 0.02; done; kill -TERM $!; wait $!");
  EXPECT_EQ(outcome.code, 143) << outcome.out << outcome.err;
  EXPECT_TRUE(std::filesystem::is_empty(here.path("scratch")));
}

TEST(ProvenCheckpoints, AConfigurationWithoutCheckpointsHasNone) {
  const TemporaryFolder here;
  const std::string command =
      "$p prove '" + folder + "/configs/prove/dense.yaml' --ranks 2 parallel.tp=2";
  const std::string line = "saved, and gone on with another layout: ";
  EXPECT_TRUE(contains(in_shell(here, command).out, line));
  EXPECT_FALSE(contains(in_shell(here, command + " checkpoint.every=0").out, line));
}

}  // namespace
}  // namespace pf
