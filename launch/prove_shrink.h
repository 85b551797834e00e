// The smallest configuration that still fails.
#pragma once

#include <functional>

#include "launch/config.h"

namespace pf {

// Takes parts of a legal configuration away and makes sizes smaller, one after the other, as long
// as it stays legal and `fails`; asks at most `most` times.
config::Config shrink(config::Config config,
                      const std::function<bool(const config::Config&)>& fails, int most = 500);

}  // namespace pf
