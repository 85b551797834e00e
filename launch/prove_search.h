// Random cases, proven one after the other.
#pragma once

#include <cstdint>
#include <string>

namespace pf {

struct Search {
  std::int64_t count = 0;  // cases; 0: until a signal comes
  std::int64_t seed = 1, first = 0;
  std::string folder;  // where failures go
};

// Prints each case that fails, writes its smallest form to folder/seedS-caseN.yaml with the command
// that repeats it, and ends with a verdict. Returns the exit code: 0 all hold, 1 one does not, 128
// + the signal that ended a search with a count early.
int search(const Search& wanted);

}  // namespace pf
