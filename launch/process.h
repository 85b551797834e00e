// What the system says of this process.
#pragma once

#include <cstdint>

namespace pf {

double seconds_since_process_start();
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();

// Bytes of memory that this process may use: what its cgroups allow, or what the machine has.
std::int64_t memory_limit();

}  // namespace pf
