// All layouts of one configuration's model against one rank.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/prove_layouts.h"
#include "models/prove.h"

namespace pf {

constexpr std::int64_t most_tokens = 1 << 15;  // of a step

// A small model to prove, of all layouts or of one.
struct FileToProve {
  config::Config config;
  std::set<std::string> given;  // keys that stay as they are, "parallel.tp": of overrides, and the
                                // schedule that the file names
  bool has_group = false;       // the file or an override says balance.group
  // Where that is too large: what training would run, of which `config` is the layout with small
  // sizes.
  std::optional<config::Config> job = {};
};

// The configuration as training would have it with these overrides, but for the axes of the mesh:
// they are free unless an override fixes them. The micro-batches whose choices are counted together
// belong to the model: as many as every layout can have, unless the configuration says. Throws
// Error for a single rank.
//
// A model of more than 4M parameters, or a step of more than most_tokens, is a job: its layout is
// what the file and the overrides say, and its sizes shrink (launch/job_shrink.h). Throws Error
// where training would, and for more ranks than the machine can start.
FileToProve file_to_prove(const std::string& path, const std::vector<std::string>& overrides);

// The same of any number of ranks and any batch, and without a group that all layouts can have;
// whether a layout that overrides give is legal is not checked. Throws Error for a large model.
FileToProve file_to_draw(const std::string& path, const std::vector<std::string>& overrides);

// Its layouts, one of a job; throws Error, with a reason, if none is legal.
LayoutsOfModel layouts_to_prove(const FileToProve& file);

// "moe: 9.42k parameters, 24 x 16 tokens a step, balance.group 8; f64, 8 ranks against 1". Of a job
// a table of what is smaller comes before.
std::string heading_of(const FileToProve& file, const std::string& precision);

// Prints a line for each layout, against what one rank gave, and a verdict. Returns whether all are
// one rank.
bool prove_layouts(const LayoutsOfModel& layouts, const Descent& one_rank);

// The file's model on one rank in f64; throws Error where it diverges.
Descent one_rank_of(const FileToProve& file);

}  // namespace pf
