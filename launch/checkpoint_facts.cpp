#include "launch/checkpoint_facts.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "launch/config.h"
#include "launch/config_yaml.h"
#include "launch/run_mesh.h"
#include "launch/text.h"
#include "parallel/checkpoint_format.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

// Without a slash at its end.
std::string plain(const std::string& path) {
  const fs::path normal = fs::path(path).lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).string();
}

// By its name or by what is in it, damaged or not.
bool is_checkpoint(const std::string& folder) {
  const std::string name = fs::path(folder).filename().string();
  const bool has_name = name.starts_with("step-") && name.size() > 5 &&
                        name.find_first_not_of("0123456789", 5) == std::string::npos;
  return has_name || fs::exists(fs::path(folder) / checkpoint_master) ||
         fs::exists(fs::path(folder) / checkpoint_sums);
}

// Throws Error unless it is a folder that may have checkpoints or be one.
void check_folder(const std::string& path) {
  const std::string name = printable(path);
  std::error_code ignored;
  require(fs::exists(path, ignored), name, ": no such folder");
  require(fs::is_directory(path, ignored), name,
          ": this is a file, wanted the folder of a run or of a checkpoint");
  for (const std::string end : {being_written, being_removed})
    require(!path.ends_with(end), name, ": only part of a checkpoint, which is ",
            end == being_written ? "still being written, or was when the run ended"
                                 : "being removed, or was when the run ended");
}

std::string text_of(const Layout& layout, std::int64_t zero) {
  std::string sizes;
  const auto add = [&](const char* name, std::int64_t size, bool is_shown) {
    if (is_shown) sizes += fmt::format("{}{} {}", sizes.empty() ? "" : ", ", name, size);
  };
  const int tp = layout.share * layout.kv;
  add("tp", tp, tp > 1);
  add("cp", layout.cp, layout.cp > 1);
  add("dp", layout.dp, true);
  add("etp", layout.etp, layout.etp > 1);
  add("ep", layout.ep, layout.ep > 1);
  add("pp", layout.pp, layout.pp > 1);
  add("zero", zero, zero > 0);
  return fmt::format("{} rank{} ({})", layout.ranks(), layout.ranks() == 1 ? "" : "s", sizes);
}

void add_keys(const YAML::Node& node, const std::string& key,
              std::map<std::string, std::string>& keys) {
  if (node.IsMap()) {
    for (const auto& entry : node)
      add_keys(entry.second, key + (key.empty() ? "" : ".") + entry.first.as<std::string>(), keys);
  } else if (node.IsSequence()) {
    for (std::size_t i = 0; i < node.size(); ++i)
      add_keys(node[i], fmt::format("{}[{}]", key, i), keys);
  } else {
    keys[key] = node.IsScalar() ? node.Scalar() : "";
  }
}

std::string text_in(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.facts().texts.find(name);
  return found == checkpoint.facts().texts.end() ? "" : found->second;
}

}  // namespace

std::vector<std::string> checkpoints_at(const std::string& path) {
  const std::string folder = plain(path);
  check_folder(folder);
  if (is_checkpoint(folder)) return {folder};
  for (const std::string& parent : {(fs::path(folder) / "checkpoints").string(), folder}) {
    if (!fs::is_directory(parent)) continue;
    std::vector<std::string> found = checkpoints_in(parent);
    std::ranges::reverse(found);
    if (!found.empty()) return found;
  }
  throw Error(printable(folder) +
              ": no checkpoint, and none in it (wanted a run's folder, or one like " +
              checkpoint_name(50) + ")");
}

std::string checkpoint_at(const std::string& path) {
  return checkpoints_at(path).back();
}

std::int64_t bytes_of(const Checkpoint& checkpoint) {
  std::int64_t bytes = 0;
  for (int part = 0; part < checkpoint.parts(); ++part) bytes += checkpoint.bytes_of_part(part);
  for (const char* name : {checkpoint_master, checkpoint_sums})
    bytes += std::int64_t(fs::file_size(fs::path(checkpoint.folder()) / name));
  return bytes;
}

std::string time_of(const Checkpoint& checkpoint) {
  struct stat status {};
  if (stat((fs::path(checkpoint.folder()) / checkpoint_master).c_str(), &status) != 0) return "?";
  return fmt::format("{:%Y-%m-%d %H:%M}", fmt::localtime(status.st_mtime));
}

ConfigWords config_words(const Checkpoint& checkpoint) {
  try {
    const config::Config config =
        parse_resolved(text_in(checkpoint, "config"), checkpoint.folder());
    return {text_of(layout_of(config), config.parallel().zero()),
            config::Run::Precision_Name(config.run().precision())};
  } catch (const Error&) {
    return {text_in(checkpoint, "layout"), ""};  // of another version's configuration
  }
}

std::map<std::string, std::string> config_keys(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> keys;
  try {
    const YAML::Node node =
        read_yaml(text_in(checkpoint, "config"), [](int) { return std::string(); });
    if (node.IsMap()) add_keys(node, "", keys);
  } catch (const Error&) {
    keys.clear();
  } catch (const YAML::Exception&) {
    keys.clear();
  }
  return keys;
}

}  // namespace pf
