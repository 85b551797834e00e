// What people get wrong, and what they are told before any rank starts.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/launch/shell.h"

namespace pf {
namespace {

struct Mistake {
  std::string arguments;
  std::vector<std::string> facts;  // that the message holds
};

TEST(BadInput, IsToldInAFewLinesWithExitCode2BeforeAnythingStarts) {
  const TemporaryFolder here;
  write_small_run(here);
  here.write("broken.yaml", "a: [1\n b");
  here.write("list.yaml", "- a\n- b\n");
  here.write("empty.yaml", "");
  here.write("empty.txt", "");
  here.write("file", "");
  const std::string sources = "run.yaml 'data.sources=[{name: a, path: ";
  const std::vector<Mistake> mistakes{
      {"nowhere.yaml", {"nowhere.yaml", "No such file"}},
      {".", {"folder", "YAML"}},
      {"broken.yaml", {"broken.yaml:2", "not YAML"}},
      {"list.yaml", {"list.yaml:1", "found a list", "wanted a map"}},
      {"empty.yaml", {"empty.yaml", "empty"}},
      {"run.yaml train.stepz=3", {"train.stepz", "unknown key", "did you mean train.steps?"}},
      {"run.yaml train", {"'train'", "wanted key.path=value"}},
      {"run.yaml model=[1]", {"model", "found a list", "wanted a map with layers"}},
      {"run.yaml train.steps=many", {"train.steps", "'many'", "an integer, 1 to"}},
      {"run.yaml train.steps=0", {"train.steps", "'0'", "1 to"}},
      {"run.yaml optimizer.lr=.nan", {"optimizer.lr", "'.nan'", "0 to 1000"}},
      {"run.yaml model.heads=5", {"run.yaml:3", "model.hidden", "64", "model.heads=5"}},
      {"run.yaml train.global_batch=9 --ranks 2",
       {"train.global_batch", "found 9", "nearest: 8 or 11"}},
      {"run.yaml --ranks 64", {"run.yaml:16", "found 8", "dp=64", "parallel.ranks to 4"}},
      {"run.yaml --ranks 10000 train.global_batch=20000 model.hidden=1024",
       {"parallel.ranks: found 10000", "a rank needs at least", "has ", "; at most ", " fit"}},
      {"run.yaml --threads 4096 --ranks 1024 train.global_batch=2048",
       {"parallel.ranks: found 1024", "parallel.threads=4096", " threads; at most ", " fit"}},
      {"run.yaml --ranks 8 parallel.tp=8", {"parallel.tp", "found 8", "nearest: 4"}},
      {sources + "nowhere.txt}]'",
       {"data.sources[0].path", "nowhere.txt", "there is no such file or folder"}},
      {sources + "empty.txt}]'", {"empty.txt", "is empty"}},
      {"run.yaml run.folder=file/x",
       {"override 'run.folder=file/x': run.folder: file/x", "can't be made", "Not a directory"}},
  };
  for (const Mistake& mistake : mistakes) {
    const Outcome outcome = in_shell(here, "$p train " + mistake.arguments);
    EXPECT_EQ(outcome.code, 2) << mistake.arguments;
    EXPECT_EQ(outcome.out, "") << mistake.arguments;
    EXPECT_LE(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 5) << outcome.err;
    for (const std::string& fact : mistake.facts)
      EXPECT_TRUE(contains(outcome.err, fact)) << fact << " is not in: " << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(here.path("runs"))) << mistake.arguments;
  }
}

}  // namespace
}  // namespace pf
