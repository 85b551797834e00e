#include "launch/process.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace pf {
namespace {

// The smallest number in the file NAME of a cgroup's folder and of those above it, if any.
std::int64_t smallest_limit(const std::string& root, std::string group, const std::string& name) {
  std::int64_t smallest = std::numeric_limits<std::int64_t>::max();
  for (;;) {
    std::ifstream file(std::string(root).append(group).append("/").append(name));
    std::int64_t limit = 0;
    if (file >> limit) smallest = std::min(smallest, limit);  // "max" is no number
    if (group.empty()) return smallest;
    group.resize(std::min(group.find_last_of('/'), group.size() - 1));
  }
}

// The cgroups of this process that may limit what `controller` controls, each as the folder of its
// hierarchy and its path there. A line of /proc/self/cgroup is "NUMBER:CONTROLLERS:/GROUP", without
// controllers in version 2.
std::vector<std::pair<std::string, std::string>> groups_with(const std::string& root,
                                                             const std::string& controller) {
  std::vector<std::pair<std::string, std::string>> found;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers.empty()) found.emplace_back(root + "/sys/fs/cgroup", group);
    if (controllers == controller)
      found.emplace_back((root + "/sys/fs/cgroup/").append(controller), group);
  }
  return found;
}

}  // namespace

std::int64_t memory_limit(const std::string& root) {
  std::int64_t limit = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (const auto& [folder, group] : groups_with(root, "memory")) {
    const bool is_first_version = folder.ends_with("/memory");
    limit = std::min(
        limit,
        smallest_limit(folder, group, is_first_version ? "memory.limit_in_bytes" : "memory.max"));
  }
  return limit;
}

// Each thread has a number, and a stack of two mappings.
std::int64_t thread_limit(const std::string& root) {
  std::int64_t limit = std::numeric_limits<std::int64_t>::max();
  const auto at_most = [&](const std::string& name, std::int64_t of_each) {
    std::ifstream file(root + "/proc/sys/" + name);
    std::int64_t most = 0;
    if (file >> most) limit = std::min(limit, most / of_each);
  };
  at_most("kernel/threads-max", 1);
  at_most("kernel/pid_max", 1);
  at_most("vm/max_map_count", 2);
  for (const auto& [folder, group] : groups_with(root, "pids"))
    limit = std::min(limit, smallest_limit(folder, group, "pids.max"));
  return limit;
}

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
