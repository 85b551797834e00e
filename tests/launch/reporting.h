// Reporters and what they are told.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "launch/report.h"
#include "tests/launch/temporary_folder.h"

namespace pf {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

inline File opened(std::FILE* file) {
  return {file, [](std::FILE* f) { return std::fclose(f); }};
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

inline std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

inline bool contains(const std::string& text, const std::string& part) {
  return count(text, part) > 0;
}

inline StepReport a_step(std::int64_t number) {
  StepReport report;
  report.step = number;
  report.loss = 5.3 / static_cast<double>(number);
  report.balance_loss = 0.1;
  report.z_loss = 1e-7;
  report.grad_norm = 1.0 / 3;
  report.lr = 2e-3;
  report.tokens = 4096 * number;
  report.tokens_per_s = 12345.6;
  report.expert_load = 1.25;
  report.seconds_left = 245;
  return report;
}

// What a reporter without a terminal prints, and its metrics.
struct Written {
  std::string shown, metrics;
};

inline Written written(std::int64_t steps, const std::function<void(Reporter&)>& action) {
  const TemporaryFolder folder;
  const std::string shown = folder.path("shown");
  {
    const File out = opened(std::fopen(shown.c_str(), "w"));
    Reporter reporter(folder.path(), steps, out.get());
    action(reporter);
  }
  return {folder.read("shown"), folder.read("metrics.jsonl")};
}

// Three domains and two layers of four experts.
inline Heldout specialised() {
  Heldout heldout{.domains = {{"english", 2.5}, {"c\"", 1.5}, {"code", 9, true}}};
  heldout.experts = {{1,
                      {{0.5, 0.5, 0, 0}, {0.25, 0.25, 0.25, 0.25}, {0, 0, 0.125, 0.875}},
                      {0.75, 0.5, 1},
                      {{1, 0.5, 0}, {0.5, 1, 0.5}, {0, 0.5, 1}}},
                     {3,
                      {{0.25, 0.75, 0, 0}, {0.5, 0.25, 0.25, 0}, {1, 0, 0, 0}},
                      {0.25, 0.5, 0},
                      {{1, 1, 0.5}, {1, 1, 0.5}, {0.5, 0.5, 0.5}}}};
  return heldout;
}

}  // namespace pf
