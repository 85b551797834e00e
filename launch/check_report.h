// What there is to say of a checked job.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/check_step.h"

namespace pf {

struct CheckReport {
  config::Config config;
  std::vector<RankNeeds> stages;
  std::string counts = {};  // the profile whose routing was taken; else experts have equal shares
  // That fits cluster.memory, 0 if none does; where that is set, and routing is no profile's.
  std::optional<std::int64_t> largest_micro_batch = {};

  const RankNeeds& worst() const;  // the largest peak
  bool fits() const;
  std::string text() const;  // for people
  std::string json() const;  // the same for programs
};
CheckReport check(const config::Config& config, const std::string& counts = {});

}  // namespace pf
