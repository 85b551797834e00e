#include "launch/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "launch/staged_file.h"

namespace pf {
namespace {

std::string reason() {
  return std::generic_category().message(errno);
}

}  // namespace

AppendFile::AppendFile(std::string path)
    : path_(std::move(path)),
      file_(open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
  require(file_ >= 0, path_, ": can't be opened: ", reason());
}

AppendFile::~AppendFile() {
  close(file_);
}

std::string AppendFile::append(std::string_view record) {
  if (torn_at_ && ftruncate(file_, *torn_at_) != 0) return reason();
  torn_at_.reset();
  const off_t begin = lseek(file_, 0, SEEK_END);
  for (std::string_view rest = record; !rest.empty();) {
    const ssize_t written = write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written >= 0) {
      rest.remove_prefix(static_cast<std::size_t>(written));
      continue;
    }
    std::string why = reason();
    if (rest.size() < record.size() && ftruncate(file_, begin) != 0) torn_at_ = begin;
    return why;
  }
  return {};
}

std::string AppendFile::sync() const {
  try {
    sync_folder_of(path_);
  } catch (const WriteError& error) {
    return error.what();
  }
  return fsync(file_) == 0 || errno == EINVAL ? "" : reason();
}

}  // namespace pf
