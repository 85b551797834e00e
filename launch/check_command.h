// `pentafold check`: one step of a job of any size, without its memory.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/check_step.h"
#include "launch/file_arguments.h"

namespace pf {

struct CheckCommand {
  FileArguments given;
  bool is_json = false;

  void add_to(CLI::App& app);
  // Returns the exit code: 1 if the job needs more than cluster.memory, else 0. `failure` is that
  // of an Error.
  int run(int& failure) const;
};

// What there is to say of a checked job.
struct CheckReport {
  config::Config config;
  std::vector<RankNeeds> stages;
  std::int64_t largest_micro_batch = 0;  // that fits cluster.memory, if that is set

  const RankNeeds& worst() const;  // the largest peak
  bool fits() const;
  std::string text() const;  // for people
  std::string json() const;  // the same for programs
};
CheckReport check(const config::Config& config);

// How many of the groups along a set of axes, written as in Traffic ("tp", "cp x dp"), have ranks
// on several nodes of `ranks_per_node` ranks (0: there is one node).
int groups_that_leave(const Layout& layout, const std::string& set, std::int64_t ranks_per_node);

}  // namespace pf
