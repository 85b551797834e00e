#include "core/trace.h"

#include <chrono>

namespace pf {

std::int64_t Trace::now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void Trace::add(Event event) {
  if (events_.size() < most_)
    events_.push_back(std::move(event));
  else
    ++dropped_;
}

void Trace::count(const char* name, std::size_t bytes) {
  Event event;
  event.kind = Kind::counter;
  event.name = name;
  event.begin = event.end = now();
  event.bytes = std::int64_t(bytes);
  add(std::move(event));
}

void Span::begin(const char* category, const char* prefix, const std::string& name) {
  event_.emplace();
  event_->category = category;
  event_->name = prefix + name;
  event_->begin = Trace::now();
}

void Span::end() {
  event_->end = Trace::now();
  trace_->add(std::move(*event_));
}

}  // namespace pf
