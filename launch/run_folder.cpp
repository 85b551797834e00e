#include "launch/run_folder.h"

#include <filesystem>
#include <system_error>

#include "core/error.h"

namespace pf {

namespace fs = std::filesystem;

namespace {

// "runs/x/" must become "runs/x.1", not "runs/x/.1".
std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Whether something is to be kept there.
bool has_files(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) return false;
  require(fs::status_known(status), path, ": can't be looked at: ", error.message());
  require(fs::is_directory(status), path,
          ": is not a folder; remove it or choose another run.folder");
  const bool is_empty = fs::is_empty(path, error);
  require(!error, path, ": can't be read: ", error.message());
  return !is_empty;
}

std::string free_name(const std::string& path) {
  for (int number = 1;; ++number) {
    std::string name = path + '.' + std::to_string(number);
    std::error_code error;
    const fs::file_type type = fs::symlink_status(name, error).type();
    if (type == fs::file_type::not_found) return name;
    require(type != fs::file_type::none, name, ": can't be looked at: ", error.message());
  }
}

}  // namespace

std::string make_run_folder(const std::string& folder) {
  require(!folder.empty(), "run.folder is empty; name a folder");
  const std::string path = without_slashes(folder);
  std::error_code error;
  std::string line;
  if (has_files(path)) {
    const std::string aside = free_name(path);
    fs::rename(path, aside, error);
    require(!error, path, ": exists and can't be moved to ", aside, ": ", error.message(),
            "; choose another run.folder");
    line = path + " exists: moved to " + aside;
  }
  fs::create_directories(path, error);
  require(!error, path, ": can't be made: ", error.message());
  return line;
}

}  // namespace pf
