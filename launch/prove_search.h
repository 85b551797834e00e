// Random cases, proven one after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "launch/config.h"

namespace pf {

// Cases by number.
struct Cases {
  std::string name;                                                         // "random cases"
  std::string command;                                                      // that makes them
  std::function<config::Config(std::int64_t number)> of;                    // legal
  std::function<std::string(std::int64_t number)> features;                 // of a case
  std::function<std::string(std::int64_t first, std::int64_t count)> seen;  // "3 of 9 pairs ..."
};
// Of launch/prove_random.h.
Cases cases_of_any_model(std::uint64_t seed);

struct Search {
  std::int64_t count = 0;  // cases; 0: until a signal comes
  std::int64_t seed = 1, first = 0;
  std::string folder;  // where failures go
};

// Prints each case that fails, writes its smallest form to folder/seedS-caseN.yaml with the command
// that repeats it, and ends with a verdict. Returns the exit code: 0 all hold, 1 one does not, 128
// + the signal that ended a search with a count early, while a SignalScope of the caller lives.
int search(const Search& wanted, const Cases& cases);

}  // namespace pf
