// `pentafold check`: one step of a job of any size, without its memory.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "launch/file_arguments.h"

namespace pf {

struct CheckCommand {
  FileArguments given;
  std::string counts;
  bool is_json = false;

  void add_to(CLI::App& app);
  // Returns the exit code: 1 if the job needs more than cluster.memory, else 0. `failure` is that
  // of an Error.
  int run(int& failure) const;
};

}  // namespace pf
