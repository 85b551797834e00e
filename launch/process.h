// What the system says of this process.
#pragma once

#include <cstdint>
#include <string>

namespace pf {

double seconds_since_process_start();
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();

// Bytes of memory that this process may use: what its cgroups allow, or what the machine has.
// `root` stands before /proc and /sys, for tests.
std::int64_t memory_limit(const std::string& root = {});

// Threads that this process may have, beside those that others have already.
std::int64_t thread_limit(const std::string& root = {});

}  // namespace pf
