// A file that appears whole or not at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace pf {

// The system would not write, sync or rename; other Errors are what a user got wrong.
class WriteError : public Error {
 public:
  using Error::Error;
};

// Written under a name of its own beside `path`, and removed again unless keep() is reached; what
// publish() replaced is lost all the same.
class StagedFile {
 public:
  // Throws Error naming the path if the file can't be made.
  explicit StagedFile(std::string path);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  // Each throws WriteError naming the path.
  void write(std::span<const std::uint8_t> bytes);  // buffered
  void write(std::string_view text);
  void sync();     // all of it is on the disk
  void publish();  // under its name
  void keep() { is_kept_ = true; }

 private:
  void flush();
  void put(std::span<const std::uint8_t> bytes);

  std::string path_, name_;  // the second: what it is called now
  int file_;
  bool is_kept_ = false;
  std::vector<std::uint8_t> buffer_;
};

// Makes the names in the folder of `path` last. Throws WriteError.
void sync_folder_of(const std::string& path);

}  // namespace pf
