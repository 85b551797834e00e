#include "launch/process.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <string>

namespace pf {

// /proc/self/stat has the start in ticks after boot as its 22nd word; the second, the name in
// brackets, may hold spaces.
double seconds_since_process_start() {
  std::ifstream stat("/proc/self/stat"), uptime("/proc/uptime");
  std::string word;
  stat.ignore(std::numeric_limits<std::streamsize>::max(), ')');
  for (int i = 3; i <= 22; ++i) stat >> word;
  double now = 0;
  uptime >> now;
  return stat && uptime ? now - std::stod(word) / double(sysconf(_SC_CLK_TCK)) : 0;
}

std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t all = 0, resident = 0;
  statm >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace pf
