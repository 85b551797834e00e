// The program from a shell, in a folder of the test's own.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "tests/launch/config_text.h"
#include "tests/launch/temporary_folder.h"

namespace pf {

struct ShellOutcome {
  int code = 0;  // 128 + N: killed by signal N
  std::string out, err;
};
using Outcome = ShellOutcome;  // models/trial.h has a type of that name

// $p is the program.
inline Outcome in_shell(const TemporaryFolder& here, const std::string& command) {
  const std::string all = "cd '" + here.path() + "' && export p='" PENTAFOLD_BINARY "' && { " +
                          command + "; } >out 2>err </dev/null";
  const int status = std::system(all.c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return {code, here.read("out"), here.read("err")};
}

// run.yaml, a small run on two texts that begins anew whenever it is started.
inline void write_small_run(const TemporaryFolder& here) {
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += "Document " + std::to_string(i * 7919) + " of a small corpus, with some words.\n\f";
  here.write("english.txt", text);
  here.write("german.txt", text);
  here.write("run.yaml", std::string(small_run) + "run:\n  resume: never\n");
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace pf
