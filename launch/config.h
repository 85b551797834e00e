// A run's configuration: read from YAML, overridden, completed, checked, written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config.pb.h"

namespace pf {

struct Places;  // launch/config_fill.h

struct LoadOptions {
  Places* places = nullptr;    // learns where the keys were written
  bool is_for_layout = false;  // nothing will be trained: replicas need not divide a step
};

// The configuration in a YAML file after overrides ("train.steps=100", "data.sources[0].path=x";
// the last one wins), every default filled in and every rule of validate() checked. Throws Error:
// one line with the file and line (or the override), the key, what was found and what was wanted.
config::Config load_config(const std::string& path, const std::vector<std::string>& overrides = {},
                           const LoadOptions& options = {});

// The same from text; `path` is what errors call it and names the run.
config::Config parse_config(const std::string& text, const std::string& path,
                            const std::vector<std::string>& overrides = {},
                            const LoadOptions& options = {});

// to_yaml() of a configuration, perhaps by an older program, whose presets and rules may have been
// others: what it lacks counts as its default, and no rule is checked. `path` is what errors call
// it.
config::Config parse_resolved(const std::string& text, const std::string& path);

// The keys that a YAML file has, without defaults and rules.
config::Config keys_in_file(const std::string& path);

// Throws Error unless load_config could have returned this configuration; for one changed or made
// in code, where what has a default may be missing.
void validate(const config::Config& config);

// Replicas of the model: ranks / (tp cp pp).
std::int64_t data_parallel_size(const config::Config& config);

// All keys as YAML in schema order; parse_config reads back an equal message.
std::string to_yaml(const config::Config& config);

// Writes to_yaml(config) to a file in a folder that exists.
void save_config(const config::Config& config, const std::string& path);

}  // namespace pf
