// The arguments of a command that reads a configuration: FILE [KEY=VALUE ...] [--ranks N].
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace pf {

struct FileArguments {
  std::string file, ranks, threads;
  std::vector<std::string> overrides;

  // Without --threads, which not every such command has.
  void add_to(CLI::App& app);
  void add_threads_to(CLI::App& app);
  // The overrides, and after them those that options stand for.
  std::vector<std::string> changes() const;
};

}  // namespace pf
