// `pentafold prove`: any layout of a model computes what one rank does.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "launch/file_arguments.h"

namespace pf {

struct ProveCommand {
  FileArguments given;
  std::string precision, output = "unproven";
  std::int64_t random = 0, seed = 1, first = 0;
  bool is_forever = false;

  void add_to(CLI::App& app);
  // Returns the exit code: 0 if every layout is one rank, 1 if one is not, 128 + the signal that
  // ended it. Sets `failure`, which is that of an Error, to 1 where what is wrong is not the input.
  int run(int& failure) const;

 private:
  int prove_file(int& failure) const;
};

}  // namespace pf
