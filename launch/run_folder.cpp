#include "launch/run_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "launch/terminal.h"
#include "parallel/checkpoint_files.h"
#include "parallel/checkpoint_format.h"

namespace pf {

namespace fs = std::filesystem;

namespace {

// "runs/x/" must become "runs/x.1", not "runs/x/.1".
std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

void make_folder(const std::string& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  require(type != fs::file_type::none, path, ": can't be looked at: ", error.message());
  require(type == fs::file_type::not_found || type == fs::file_type::directory, path,
          ": is not a folder; remove it or choose another run.folder");
  fs::create_directories(path, error);
  require(!error, path, ": can't be made: ", error.message());
}

// Whether something is to be kept there.
bool has_files(const std::string& path) {
  std::error_code error;
  fs::directory_iterator at(path, error);
  bool has_any = false;
  for (const fs::directory_iterator end; !error && at != end && !has_any; at.increment(error)) {
    const std::string name = at->path().filename().string();
    has_any = name != "lock" && !name.starts_with("lock.");  // the latter: one that is being made
  }
  require(!error, path, ": can't be read: ", error.message());
  return has_any;
}

std::string text_of_move(const std::string& from, const std::string& to) {
  return from + " exists: moved to " + to;
}

// Renames it to PATH.N and says so.
std::string move_aside(const std::string& path) {
  std::error_code error;
  for (int number = 1;; ++number) {
    const std::string name = path + '.' + std::to_string(number);
    const fs::file_type type = fs::symlink_status(name, error).type();
    require(type != fs::file_type::none, name, ": can't be looked at: ", error.message());
    if (type != fs::file_type::not_found) continue;
    fs::rename(path, name, error);
    require(!error, path, ": exists and can't be moved to ", name, ": ", error.message());
    return text_of_move(path, name);
  }
}

std::string checkpoints_of(const std::string& folder) {
  return folder + "/checkpoints";
}

// Whether renaming `folder` would take `path` with it.
bool is_below(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path inner = fs::canonical(path, error), outer = fs::canonical(folder, error);
  return !error && std::ranges::mismatch(outer, inner).in1 == outer.end();
}

void remove_unfinished(const std::string& checkpoints, std::vector<std::string>& lines) {
  std::error_code error;
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(checkpoints, error)) {
    const std::string name = entry.path().string();
    if (name.ends_with(being_written) || name.ends_with(being_removed)) found.push_back(name);
  }
  std::ranges::sort(found);
  for (const std::string& name : found) {
    fs::remove_all(name, error);
    require(!error, name, ": can't be removed: ", error.message());
    lines.push_back(name + ": removed, since a run that was killed left it unfinished");
  }
}

void open(const std::string& path, const std::string& resume, const RunLockOptions& options,
          RunFolder& opened) {
  make_folder(path);
  opened.lock = std::make_unique<RunLock>(path, options);
  const bool has_path = resume != "auto" && resume != "never";
  if (resume == "auto") opened.checkpoints = checkpoints_in(checkpoints_of(path));
  if (has_path) opened.checkpoints = {without_slashes(resume)};
  if (has_path ? is_below(resume, path) : !opened.checkpoints.empty())
    return remove_unfinished(checkpoints_of(path), opened.lines);
  if (!has_files(path)) return;
  // The old lock goes with the old folder, and only once the new one is held.
  opened.lines.push_back(move_aside(path));
  make_folder(path);
  opened.lock = std::make_unique<RunLock>(path, options);
}

}  // namespace

RunFolder open_run_folder(const config::Config& config, const Places& places,
                          const RunLockOptions& options) {
  const std::string& resume = config.run().resume();
  std::error_code ignored;
  if (resume != "auto" && resume != "never" && !fs::is_directory(resume, ignored))
    places.fail("run.resume", "found '" + resume + "', which is no folder; wanted auto, never or " +
                                  "the folder of a checkpoint, like " + "runs/NAME/checkpoints/" +
                                  checkpoint_name(100));
  RunLockOptions told = options;
  if (!told.say) told.say = [](const std::string& line) { print(line + '\n'); };
  RunFolder opened;
  try {
    require(!config.run().folder().empty(), "is empty; name a folder");
    open(without_slashes(config.run().folder()), resume, told, opened);
  } catch (const Error& error) {
    places.fail("run.folder", error.what());
  }
  return opened;
}

std::vector<std::string> set_later_checkpoints_aside(const std::string& folder, std::int64_t step) {
  std::vector<std::string> lines;
  for (const std::string& path : checkpoints_in(checkpoints_of(folder))) {
    const std::string name = fs::path(path).filename().string();
    if (std::stoll(name.substr(name.find('-') + 1)) <= step) continue;
    lines.push_back(move_aside(path));
  }
  return lines;
}

}  // namespace pf
