// A small configuration and what goes wrong with it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/config.h"

namespace pf {

using Overrides = std::vector<std::string>;

inline constexpr const char* small_run = R"(model:
  layers: 2
  hidden: 64
  heads: 4
  ffn: 128
data:
  sequence: 32
  sources:
    - name: english
      path: english.txt
    - name: german
      path: german.txt
train:
  steps: 10
  micro_batch: 2
  global_batch: 8
optimizer:
  lr: 1e-3
)";
inline constexpr const char* with_moe = "model.moe={experts: 8, top_k: 2, ffn: 32}";

// What the action's Error says.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

inline std::string error_of(const std::string& text, const Overrides& overrides = {}) {
  return error_of([&] { parse_config(text, "run.yaml", overrides); });
}

// What the last of some overrides of `small_run` is told, without the override itself.
inline std::string told(const Overrides& overrides) {
  const std::string error = error_of(small_run, overrides);
  const size_t end = error.find("': ");
  return end == std::string::npos ? error : error.substr(end + 3);
}

inline bool equal(const config::Config& a, const config::Config& b) {
  return a.SerializeAsString() == b.SerializeAsString();
}

}  // namespace pf
