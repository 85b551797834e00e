// Where the program prints.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace pf {

inline constexpr std::string_view erase_line = "\r\033[K";

// A terminal, and not a dumb one (TERM).
bool understands_escapes(std::FILE* out);

// Of a terminal, now; 80 where it does not say.
int columns_of(std::FILE* out);

// To standard output. Throws Error if it can't be written; a reader that went away is no failure.
void print(const std::string& text);

}  // namespace pf
