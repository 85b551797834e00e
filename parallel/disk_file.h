// A file that is written and read by position. Every failure is an Error with the file and the
// system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace pf {

class DiskFile {
 public:
  // For writing and reading; empty at first, also if there was one.
  static DiskFile create(const std::string& path);
  static DiskFile open(const std::string& path);  // for reading
  ~DiskFile();
  DiskFile(DiskFile&& other) noexcept;
  DiskFile& operator=(DiskFile&& other) noexcept;

  const std::string& path() const { return path_; }
  std::int64_t size() const;
  // Makes it `bytes` long, with the blocks for them where the file system can promise them.
  void reserve(std::int64_t bytes);
  void write(std::span<const std::byte> bytes, std::int64_t at);
  // All of `bytes`; that the file ends before is an Error.
  void read(std::span<std::byte> bytes, std::int64_t at) const;
  // All that was written is on the disk, and what is read next comes from there where the system
  // heeds advice.
  void sync();
  void close();

 private:
  DiskFile(std::string path, int file) : path_(std::move(path)), file_(file) {}

  std::string path_;
  int file_;
};

// The names in `folder` last.
void sync_names(const std::string& folder);

}  // namespace pf
