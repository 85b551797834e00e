#include "launch/staged_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "parallel/disk_file.h"

namespace pf {
namespace {

constexpr std::size_t buffer_bytes = 1 << 20;

std::string reason() {
  return std::generic_category().message(errno);
}

void check(bool is_done, const std::string& path, const char* what) {
  if (!is_done) throw WriteError(path + ": can't be " + what + ": " + reason());
}

}  // namespace

StagedFile::StagedFile(std::string path)
    : path_(std::move(path)),
      name_(path_ + ".tmp-" + std::to_string(getpid())),
      file_(open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
  require(file_ >= 0, path_, ": can't be made: ", reason());
}

StagedFile::~StagedFile() {
  close(file_);
  if (!is_kept_) unlink(name_.c_str());
}

void StagedFile::write(std::span<const std::uint8_t> bytes) {
  if (buffer_.size() + bytes.size() > buffer_bytes) flush();
  if (bytes.size() > buffer_bytes) return put(bytes);
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

void StagedFile::write(std::string_view text) {
  write(std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

void StagedFile::sync() {
  flush();
  check(fsync(file_) == 0, path_, "written");
}

void StagedFile::publish() {
  check(std::rename(name_.c_str(), path_.c_str()) == 0, path_, "put in its place");
  name_ = path_;
}

void StagedFile::flush() {
  put(buffer_);
  buffer_.clear();
}

void StagedFile::put(std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    check(written >= 0, path_, "written");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void sync_folder_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  try {
    sync_names(parent.empty() ? "." : parent);
  } catch (const Error& error) {
    throw WriteError(error.what());
  }
}

}  // namespace pf
