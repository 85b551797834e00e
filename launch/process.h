// What the system says of this process.
#pragma once

#include <cstdint>

namespace pf {

double seconds_since_process_start();
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();

}  // namespace pf
