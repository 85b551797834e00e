// What a reader may say of bytes that it refuses.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "launch/text.h"

namespace pf {

// Ends the program, for libFuzzer to see, unless `holds`.
inline void claim(bool holds, const char* what, std::string_view text = {}) {
  if (holds) return;
  std::fprintf(stderr, "claim: %s: %.*s\n", what, static_cast<int>(text.size()), text.data());
  std::abort();
}

// An error is a few printable lines.
inline void check_message(std::string_view message) {
  claim(!message.empty() && message.size() < 4000, "an error is neither empty nor long", message);
  claim(std::count(message.begin(), message.end(), '\n') < 5, "an error has at most five lines",
        message);
  for (std::string_view rest = message; !rest.empty();) {
    const Character next = first_character(rest);
    claim(next.is_printable || rest[0] == '\n', "an error is printable", message);
    rest.remove_prefix(next.bytes);
  }
}

}  // namespace pf
