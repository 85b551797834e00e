// Where the time of a run goes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/metrics_log.h"

namespace pf {

// Seconds by part, in order of first use. Each stretch is also a span of the trace, if one is on.
class Times {
 public:
  void enter(const char* name);  // ends the part that runs and begins another
  void stop() { enter(nullptr); }
  const std::vector<PartTime>& parts() const { return parts_; }

 private:
  PartTime& part(const std::string& name);

  const char* running_ = nullptr;
  std::chrono::steady_clock::time_point begin_;
  std::int64_t trace_begin_ = 0;
  std::vector<PartTime> parts_;
};

// What came on top of `before`.
std::vector<PartTime> since(const std::vector<PartTime>& before, std::vector<PartTime> now);

}  // namespace pf
