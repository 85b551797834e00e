#include "parallel/disk_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace pf {
namespace {

void check(Condition is_done, const std::string& path, const char* what) {
  const int error = errno;
  require(is_done, path, ": can't be ", what, ": ", std::generic_category().message(error));
}

int opened(const std::string& path, int flags, const char* what) {
  const int file = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  check(file >= 0, path, what);
  return file;
}

}  // namespace

DiskFile DiskFile::create(const std::string& path) {
  return {path, opened(path, O_RDWR | O_CREAT | O_TRUNC, "made")};
}

DiskFile DiskFile::open(const std::string& path) {
  return {path, opened(path, O_RDONLY, "opened")};
}

DiskFile::DiskFile(DiskFile&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

DiskFile& DiskFile::operator=(DiskFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  return *this;
}

DiskFile::~DiskFile() {
  if (file_ >= 0) ::close(file_);
}

std::int64_t DiskFile::size() const {
  struct stat facts {};
  check(fstat(file_, &facts) == 0, path_, "read");
  return facts.st_size;
}

void DiskFile::reserve(std::int64_t bytes) {
  if (bytes == 0) return;
  int error = 0;
  do error = fallocate(file_, 0, 0, bytes) == 0 ? 0 : errno;
  while (error == EINTR);
  if (error == EOPNOTSUPP || error == ENOSYS) error = ftruncate(file_, bytes) == 0 ? 0 : errno;
  errno = error;
  check(error == 0, path_, "written");
}

void DiskFile::write(std::span<const std::byte> bytes, std::int64_t at) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file_, bytes.data(), bytes.size(), at);
    if (written < 0 && errno == EINTR) continue;
    check(written >= 0, path_, "written");
    bytes = bytes.subspan(std::size_t(written));
    at += written;
  }
}

void DiskFile::read(std::span<std::byte> bytes, std::int64_t at) const {
  while (!bytes.empty()) {
    const ssize_t got = pread(file_, bytes.data(), bytes.size(), at);
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, path_, "read");
    require(got > 0, path_, ": ends after ", at, " bytes; wanted ", bytes.size(), " more");
    bytes = bytes.subspan(std::size_t(got));
    at += got;
  }
}

void DiskFile::sync() {
  check(fsync(file_) == 0, path_, "written");
  posix_fadvise(file_, 0, 0, POSIX_FADV_DONTNEED);
}

void DiskFile::close() {
  check(::close(std::exchange(file_, -1)) == 0, path_, "written");
}

void sync_names(const std::string& folder) {
  const int file = opened(folder, O_RDONLY | O_DIRECTORY, "opened");
  const bool is_done = fsync(file) == 0 || errno == EINVAL;  // some file systems can't
  const int error = errno;
  ::close(file);
  errno = error;
  check(is_done, folder, "written");
}

}  // namespace pf
