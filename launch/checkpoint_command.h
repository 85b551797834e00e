// `pentafold checkpoint`: what is in checkpoints, whether they are whole, how two of them differ.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace pf {

struct CheckpointCommand {
  std::string action;
  std::vector<std::string> arguments;
  bool weights_only = false;

  void add_to(CLI::App& app);
  // Returns the exit code: 1 if verify finds damage or diff a difference, else 0. Sets `failure`,
  // which is that of an Error, to 1 where what is wrong is the checkpoint.
  int run(int& failure) const;
};

}  // namespace pf
