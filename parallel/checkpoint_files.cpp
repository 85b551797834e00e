#include "parallel/checkpoint_files.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "parallel/checkpoint_format.h"

namespace pf {
namespace {

constexpr std::string_view prefix = "step-";

// -1 if the name is another's.
std::int64_t step_of(const std::string& name) {
  std::int64_t step = -1;
  if (!name.starts_with(prefix)) return -1;
  std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
  return step >= 0 && name == checkpoint_name(step) ? step : -1;
}

}  // namespace

std::string checkpoint_part(int number) {
  char name[32];
  std::snprintf(name, sizeof name, "part-%05d.h5", number);
  return name;
}

std::string checkpoint_name(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "%s%08lld", prefix.data(), static_cast<long long>(step));
  return name;
}

std::vector<std::string> checkpoints_in(const std::string& folder) {
  std::vector<std::pair<std::int64_t, std::string>> found;
  std::error_code none;  // no folder, no checkpoints
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::int64_t step = step_of(entry.path().filename().string());
    if (step >= 0) found.emplace_back(step, entry.path().string());
  }
  std::ranges::sort(found, std::greater{});
  std::vector<std::string> paths;
  paths.reserve(found.size());
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

}  // namespace pf
