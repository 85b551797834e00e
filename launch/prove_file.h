// All layouts of one configuration's model against one rank.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/prove_layouts.h"
#include "models/prove.h"

namespace pf {

constexpr std::int64_t most_tokens = 1 << 15;  // of a step

// A small model to prove.
struct FileToProve {
  config::Config config;
  std::set<std::string> given;  // keys that stay as they are, "parallel.tp": of overrides, and the
                                // schedule that the file names
  bool has_group = false;       // the file or an override says balance.group
};

// The configuration as training would have it with these overrides, but for the axes of the mesh:
// they are free unless an override fixes them. The micro-batches whose choices are counted together
// belong to the model: as many as every layout can have, unless the configuration says. Throws
// Error for a model that is too large to prove, and for a single rank.
FileToProve file_to_prove(const std::string& path, const std::vector<std::string>& overrides);

// The same of any number of ranks and any batch, and without a group that all layouts can have;
// whether a layout that overrides give is legal is not checked.
FileToProve file_to_draw(const std::string& path, const std::vector<std::string>& overrides);

// Its layouts; throws Error, with a reason, if none is legal.
LayoutsOfModel layouts_to_prove(const FileToProve& file);

// "moe: 9.42k parameters, 24 x 16 tokens a step, balance.group 8; f64, 8 ranks against 1"
std::string heading_of(const config::Config& config, const std::string& precision);

// Prints a line for each layout, against what one rank gave, and a verdict. Returns whether all are
// one rank.
bool prove_layouts(const LayoutsOfModel& layouts, const Descent& one_rank);

// The file's model on one rank in f64; throws Error where it diverges.
Descent one_rank_of(const FileToProve& file);

}  // namespace pf
