// Published architectures by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model.pb.h"

namespace pf {

struct Preset {
  std::string name;
  config::Model model;
  std::string source;           // who published it
  std::int64_t parameters = 0;  // as published, without what is not a weight of this model
  bool is_exact = true;         // the count of a published checkpoint; else a nominal size
};

// Smallest first, by family.
const std::vector<Preset>& presets();
// Null if there is none of this name.
const Preset* find_preset(const std::string& name);

}  // namespace pf
