// How far layouts are apart where sums are rounded: a table in Markdown.
#pragma once

#include "launch/config.h"
#include "launch/prove_layouts.h"

namespace pf {

// Prints for each layout, against one rank of the same precision, how far apart losses (before the
// first step, after one and after ten), the first gradient norm and the worst of the first
// gradients are, and the share of the first choices of experts that fell otherwise; and first how
// far one rank is from itself in f64. Distances are relative.
void measure_layouts(const config::Config& config, const LayoutsOfModel& layouts,
                     config::Run::Precision precision);

}  // namespace pf
