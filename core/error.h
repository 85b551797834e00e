// Contract checks. A failed check throws Error with the place and the facts.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace pf {

// What callers, files or machines got wrong. what() says what was found, what was wanted and what
// to do; where() is the place in the source that noticed.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, std::string where = {})
      : std::runtime_error(what), where_(std::move(where)) {}
  const std::string& where() const { return where_; }

 private:
  std::string where_;
};

// A bool that remembers where it was written, so that require() needs no macro.
struct Condition {
  bool holds;
  const char* file;
  int line;
  // NOLINTNEXTLINE(google-explicit-constructor): the implicit call is the point.
  Condition(bool claim, const char* in_file = __builtin_FILE(), int at_line = __builtin_LINE())
      : holds(claim), file(in_file), line(at_line) {}
};

// Throws unless `condition` holds. The parts are turned to text only on failure.
template <class... Parts>
void require(Condition condition, const Parts&... parts) {
  if (condition.holds) [[likely]]
    return;
  std::ostringstream text;
  (text << ... << parts);
  throw Error(text.str(), std::string(condition.file) + ':' + std::to_string(condition.line));
}

}  // namespace pf
