// Which rank does what: `pentafold layout`.
#pragma once

#include <string>
#include <vector>

#include "launch/config.h"
#include "parallel/mesh.h"

namespace pf {

// The groups of ranks that differ only in their coordinates on `set`, axes that follow each other
// in `view`; in the order of their first ranks.
std::vector<std::vector<int>> groups_of(const Layout& layout, const Axes& set, View view);

// For people: the sizes of all axes, the groups of each, those that leave a node marked, and each
// rank's node, experts and coordinates in both views.
std::string layout_text(const config::Config& config);

}  // namespace pf
