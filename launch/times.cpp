#include "launch/times.h"

#include "core/trace.h"

namespace pf {

using Clock = std::chrono::steady_clock;

void Times::enter(const char* name) {
  const auto now = Clock::now();
  if (running_ != nullptr) {
    part(running_).seconds += std::chrono::duration<double>(now - begin_).count();
    if (Trace* trace = Trace::current())
      trace->add({Trace::Kind::span, "part", running_, trace_begin_, Trace::now(), -1, {}});
  }
  trace_begin_ = Trace::now();
  running_ = name;
  begin_ = now;
}

PartTime& Times::part(const std::string& name) {
  for (PartTime& p : parts_)
    if (p.name == name) return p;
  return parts_.emplace_back(PartTime{name, 0});
}

std::vector<PartTime> since(const std::vector<PartTime>& before, std::vector<PartTime> now) {
  for (std::size_t i = 0; i < before.size(); ++i) now[i].seconds -= before[i].seconds;
  std::erase_if(now, [](const PartTime& part) { return part.seconds == 0; });
  return now;
}

}  // namespace pf
