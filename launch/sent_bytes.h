// What a rank sends to others, by the axes of the calls.
#pragma once

#include <vector>

#include "launch/metrics_log.h"
#include "parallel/communicator.h"

namespace pf {

// In order of first use.
std::vector<SentBytes> sent_bytes(const std::vector<Traffic>& traffic);

// What came on top of `before`.
std::vector<SentBytes> since(const std::vector<SentBytes>& before, std::vector<SentBytes> now);

}  // namespace pf
