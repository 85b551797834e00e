// What a rank does and when, for a profile. While no trace records, a span costs one test of a
// thread-local pointer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pf {

class Trace {
 public:
  enum class Kind : std::uint8_t {
    span,     // on the rank's own time line: spans lie inside each other, or apart
    flight,   // beside it: begins and ends between spans, like a call that others must join
    counter,  // `bytes` holds from `begin` on
  };
  struct Event {
    Kind kind = Kind::span;
    const char* category = "";
    std::string name;
    std::int64_t begin = 0, end = 0;  // nanoseconds of now()
    std::int64_t bytes = -1;          // -1: none
    std::vector<std::pair<const char*, std::string>> facts;
  };

  // Keeps the first `most` events.
  explicit Trace(std::size_t most) : most_(most) {}

  // What this thread does is recorded while a Recording lives; nullptr pauses.
  class Recording {
   public:
    explicit Recording(Trace* trace) : previous_(std::exchange(current_, trace)) {}
    ~Recording() { current_ = previous_; }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Trace* previous_;
  };

  static Trace* current() { return current_; }  // null: nothing records
  static std::int64_t now();

  void add(Event event);
  void count(const char* name, std::size_t bytes);

  const std::vector<Event>& events() const { return events_; }
  std::size_t dropped() const { return dropped_; }

 private:
  std::size_t most_, dropped_ = 0;
  std::vector<Event> events_;

  static inline thread_local Trace* current_ = nullptr;
};

// From here to the end of the block.
class Span {
 public:
  Span(const char* category, const char* name) : Span(category, name, {}) {}
  // Named prefix + name.
  Span(const char* category, const char* prefix, const std::string& name)
      : trace_(Trace::current()) {
    if (trace_ != nullptr) begin(category, prefix, name);
  }
  ~Span() {
    if (trace_ != nullptr) end();
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

  bool is_recorded() const { return trace_ != nullptr; }
  // Of a span that is recorded.
  void fact(const char* key, std::string value) {
    event_->facts.emplace_back(key, std::move(value));
  }

 private:
  void begin(const char* category, const char* prefix, const std::string& name);
  void end();

  Trace* trace_;
  std::optional<Trace::Event> event_;
};

}  // namespace pf
