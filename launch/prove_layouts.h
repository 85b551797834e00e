// The layouts that a model can be trained with.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "launch/config.h"

namespace pf {

// Why training would refuse this configuration; "" if it would not.
std::string refusal(const config::Config& config);

std::vector<std::int64_t> divisors(std::int64_t of);  // ascending

struct LayoutsOfModel {
  std::vector<config::Config> legal;
  std::vector<std::string> refusals;
};

// The configuration with each pp, tp, cp, ep and etp that fit its ranks, but for the `fixed` ones
// ("parallel.tp"); dp follows. One after the other, layouts of several stages take the schedules
// that they can have (1f1b, gpipe, ...) unless parallel.schedule is fixed, with the usual chunks
// unless parallel.chunks is, and with the configuration's parallel.stage_layers where these fit.
LayoutsOfModel layouts_of(const config::Config& config, const std::set<std::string>& fixed);

// "tp 2  cp 1  dp 4   etp 1  ep 2  edp 4", and "pp 2  interleaved x 2" where there are stages.
std::string axes_text(const config::Config& config);

}  // namespace pf
