#include "launch/run_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/launch/config_text.h"
#include "tests/launch/reporting.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

RunFolder opened_folder(const std::string& folder, const std::string& resume = "never",
                        const RunLockOptions& options = {}) {
  config::Config config;
  config.mutable_run()->set_folder(folder);
  config.mutable_run()->set_resume(resume);
  const Places places{"run.yaml", {{"run.folder", "run.yaml:3"}, {"run.resume", "run.yaml:5"}}};
  return open_run_folder(config, places, options);
}

std::vector<std::string> lines_of_opening(const std::string& folder,
                                          const std::string& resume = "never") {
  return opened_folder(folder, resume).lines;
}

std::string error_of_opening(const std::string& folder, const std::string& resume = "never") {
  return error_of([&] { opened_folder(folder, resume); });
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

using Names = std::vector<std::string>;

// A run with checkpoints of steps 50 and 100.
std::string write_run(const TemporaryFolder& here, const std::string& name = "run") {
  here.write(name + "/metrics.jsonl", name);
  for (const std::string step : {"step-00000050", "step-00000100"})
    here.write(name + "/checkpoints/" + step + "/checkpoint.h5", step);
  return here.path(name);
}

TEST(RunFolder, IsMadeWithAllAboveItAndLocked) {
  const TemporaryFolder here;
  {
    const RunFolder run = opened_folder(here.path("a/b/c"));
    EXPECT_TRUE(run.lines.empty() && run.checkpoints.empty());
    EXPECT_EQ(names_in(here.path("a/b/c")), Names{"lock"});
    EXPECT_TRUE(contains(error_of_opening(here.path("a/b/c")),
                         "run.yaml:3: run.folder: " + here.path("a/b/c") + ": is in use by "));
  }
  EXPECT_TRUE(fs::is_empty(here.path("a/b/c")));
}

TEST(RunFolder, AnEmptyOneIsKept) {
  const TemporaryFolder here;
  for (const std::string resume : {"never", "auto"}) {
    EXPECT_EQ(lines_of_opening(here.path("run"), resume), Names{});
    here.write("run/lock.0123", "one that another start makes");
    EXPECT_EQ(lines_of_opening(here.path("run"), resume), Names{});
    EXPECT_FALSE(fs::exists(here.path("run.1")));
  }
}

TEST(RunFolder, OneWithFilesIsMovedAsideAndSaysSo) {
  for (const std::string resume : {"never", "auto"}) {
    const TemporaryFolder here;
    here.write("run/metrics.jsonl", "first");
    EXPECT_EQ(lines_of_opening(here.path("run"), resume),
              Names{here.path("run") + " exists: moved to " + here.path("run.1")});
    EXPECT_EQ(here.read("run.1/metrics.jsonl"), "first");
    EXPECT_EQ(names_in(here.path("run.1")), Names{"metrics.jsonl"});
    EXPECT_TRUE(fs::is_empty(here.path("run")));
  }
}

TEST(RunFolder, TheSmallestFreeNumberIsTaken) {
  const TemporaryFolder here;
  here.write("run/metrics.jsonl", "new");
  here.write("run.1/metrics.jsonl", "old");
  here.write("run.3/metrics.jsonl", "older");
  fs::create_symlink("nowhere", here.path("run.2"));
  opened_folder(here.path("run"));
  EXPECT_EQ(here.read("run.4/metrics.jsonl"), "new");
  EXPECT_EQ(here.read("run.1/metrics.jsonl"), "old");
  EXPECT_EQ(here.read("run.3/metrics.jsonl"), "older");
}

TEST(RunFolder, ASlashAtTheEndChangesNothing) {
  const TemporaryFolder here;
  here.write("run/metrics.jsonl", "first");
  opened_folder(here.path("run") + "//");
  EXPECT_EQ(here.read("run.1/metrics.jsonl"), "first");
  EXPECT_TRUE(fs::is_empty(here.path("run")));
}

TEST(RunFolder, WithCheckpointsStaysForAutoNewestFirst) {
  const TemporaryFolder here;
  const std::string run = write_run(here);
  here.write("run/checkpoints/notes.txt", "");
  const RunFolder opened = opened_folder(run, "auto");
  EXPECT_EQ(opened.checkpoints,
            (Names{run + "/checkpoints/step-00000100", run + "/checkpoints/step-00000050"}));
  EXPECT_EQ(opened.lines, Names{});
  EXPECT_EQ(here.read("run/metrics.jsonl"), "run");
}

TEST(RunFolder, WithCheckpointsIsMovedAsideForNever) {
  const TemporaryFolder here;
  const RunFolder opened = opened_folder(write_run(here), "never");
  EXPECT_EQ(opened.checkpoints, Names{});
  EXPECT_TRUE(fs::exists(here.path("run.1/checkpoints/step-00000100")));
}

TEST(RunFolder, StaysForACheckpointInsideItAndOnlyThat) {
  const TemporaryFolder here;
  const std::string run = write_run(here), step = run + "/checkpoints/step-00000050";
  EXPECT_EQ(opened_folder(run, step + "/").checkpoints, Names{step});
  // By another way to the same place, and elsewhere in the folder.
  fs::create_directory_symlink(run, here.path("link"));
  const std::string way = here.path("link/checkpoints/step-00000050");
  EXPECT_EQ(opened_folder(run, way).checkpoints, Names{way});
  here.write("run/kept/step-00000050/checkpoint.h5", "");
  EXPECT_EQ(opened_folder(run, run + "/kept/step-00000050").lines, Names{});
  EXPECT_EQ(here.read("run/metrics.jsonl"), "run");
}

TEST(RunFolder, IsMovedAsideForACheckpointOfAnotherRun) {
  const TemporaryFolder here;
  const std::string run = write_run(here), other = write_run(here, "run2");
  const std::string step = other + "/checkpoints/step-00000050";
  const RunFolder opened = opened_folder(run, step);
  EXPECT_EQ(opened.checkpoints, Names{step});
  EXPECT_EQ(opened.lines, Names{run + " exists: moved to " + run + ".1"});
  EXPECT_EQ(names_in(run), Names{"lock"});
  EXPECT_EQ(here.read("run2/metrics.jsonl"), "run2");
}

TEST(RunFolder, ACheckpointThatIsMissingIsAnErrorBeforeAnythingIsMoved) {
  const TemporaryFolder here;
  const std::string run = write_run(here);
  EXPECT_EQ(error_of_opening(run, here.path("nowhere")),
            "run.yaml:5: run.resume: found '" + here.path("nowhere") +
                "', which is no folder; wanted auto, never or the folder of a checkpoint, like "
                "runs/NAME/checkpoints/step-00000100");
  EXPECT_EQ(here.read("run/metrics.jsonl"), "run");
}

TEST(RunFolder, WhatKilledRunsLeftUnfinishedIsRemovedAndSaid) {
  const TemporaryFolder here;
  const std::string run = write_run(here);
  here.write("run/checkpoints/step-00000150.writing/part-00000.h5", "half");
  here.write("run/checkpoints/step-00000010.removing/part-00000.h5", "half");
  here.write("run/checkpoints/step-00000150.kept/part-00000.h5", "mine");
  EXPECT_EQ(
      lines_of_opening(run, "auto"),
      (Names{run + "/checkpoints/step-00000010.removing: removed, since a run that was killed "
                   "left it unfinished",
             run + "/checkpoints/step-00000150.writing: removed, since a run that was killed "
                   "left it unfinished"}));
  EXPECT_EQ(names_in(run + "/checkpoints"),
            (Names{"step-00000050", "step-00000100", "step-00000150.kept"}));
}

TEST(RunFolder, OfALiveRunIsNeitherMovedNorCleaned) {
  const TemporaryFolder here;
  const std::string run = write_run(here);
  here.write("run/checkpoints/step-00000150.writing/part-00000.h5", "half");
  const RunLock theirs(run);
  for (const std::string resume : {"never", "auto", "/"}) {
    EXPECT_TRUE(contains(error_of_opening(run, resume), "run.folder: " + run + ": is in use by "));
    EXPECT_TRUE(fs::exists(run + "/checkpoints/step-00000150.writing/part-00000.h5"));
  }
  EXPECT_FALSE(fs::exists(run + ".1"));
}

// Each that gets a folder of this name has it for itself as long as it lives.
TEST(RunFolder, OfManyThatStartTogetherOneHasIt) {
  const TemporaryFolder here;
  write_run(here);
  constexpr int many = 8;
  std::vector<std::optional<RunFolder>> runs(many);
  std::vector<std::thread> threads;
  for (int i = 0; i < many; ++i)
    threads.emplace_back([&, i] {
      try {
        runs[std::size_t(i)] = opened_folder(here.path("run"));
      } catch (const Error&) {
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::ranges::count_if(runs, [](const auto& run) { return run.has_value(); }), 1);
  EXPECT_EQ(names_in(here.path("")), (Names{"run", "run.1"}));
  EXPECT_EQ(names_in(here.path("run")), Names{"lock"});
}

TEST(RunFolder, LaterCheckpointsAreSetAside) {
  const TemporaryFolder here;
  const std::string run = write_run(here), folder = run + "/checkpoints/";
  here.write("run/checkpoints/step-00000100.1/checkpoint.h5", "before");
  here.write("run/checkpoints/step-123456789/checkpoint.h5", "far");
  EXPECT_EQ(set_later_checkpoints_aside(run, 50),
            (Names{folder + "step-123456789 exists: moved to " + folder + "step-123456789.1",
                   folder + "step-00000100 exists: moved to " + folder + "step-00000100.2"}));
  EXPECT_EQ(names_in(folder),
            (Names{"step-00000050", "step-00000100.1", "step-00000100.2", "step-123456789.1"}));
  EXPECT_EQ(set_later_checkpoints_aside(run, 50), Names{});
  EXPECT_EQ(set_later_checkpoints_aside(here.path("nowhere"), 50), Names{});
}

TEST(RunFolder, AFileInItsPlaceIsAnErrorAndStays) {
  const TemporaryFolder here;
  const std::string path = here.write("run", "a file");
  EXPECT_EQ(error_of_opening(path),
            "run.yaml:3: run.folder: " + path +
                ": is not a folder; remove it or choose another run.folder");
  EXPECT_EQ(here.read("run"), "a file");
}

TEST(RunFolder, AnErrorNamesThePathAndTheReason) {
  const TemporaryFolder here;
  const std::string file = here.write("file", "");
  EXPECT_EQ(error_of_opening(file + "/run"),
            "run.yaml:3: run.folder: " + file + "/run: can't be made: Not a directory");
  EXPECT_EQ(error_of_opening(""), "run.yaml:3: run.folder: is empty; name a folder");
  EXPECT_TRUE(contains(error_of_opening("/proc"), "/proc/lock: can't be made: "));
}

TEST(RunFolder, ALinkThatLeadsNowhereIsAnError) {
  const TemporaryFolder here;
  fs::create_symlink("nowhere", here.path("run"));
  EXPECT_TRUE(contains(error_of_opening(here.path("run")), here.path("run") + ": can't be made: "));
}

}  // namespace
}  // namespace pf
