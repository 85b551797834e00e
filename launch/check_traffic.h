// What ranks send in a checked step, and which of it leaves a node.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/check_step.h"
#include "parallel/mesh.h"

namespace pf {

// How many of the groups along a set of axes, written as in Traffic ("tp", "cp x dp"), have ranks
// on several nodes of `ranks_per_node` ranks (0: there is one node).
int groups_that_leave(const Layout& layout, const std::string& set, std::int64_t ranks_per_node);

// Of each kind and set of axes, what the stage that sends the most of it does; the most bytes
// first.
std::vector<Traffic> largest_traffic(const std::vector<RankNeeds>& stages);

}  // namespace pf
