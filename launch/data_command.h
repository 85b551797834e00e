// `pentafold data`: the command line of launch/convert.h.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace pf {

struct DataCommand {
  std::vector<std::string> inputs;
  std::string output, tokenizer = "bytes";
  int threads = 0;  // 0: one a processor
  bool is_forced = false;

  void add_to(CLI::App& app);
  // Returns the exit code: 0, or 128 + the signal that ended it. Sets `failure`, which is that of
  // an Error, to 1 where what is wrong is not the input.
  int run(int& failure) const;
};

}  // namespace pf
