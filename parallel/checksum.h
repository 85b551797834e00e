// Checksums of files: XXH3 of 128 bits, as the program xxh128sum prints and checks them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pf {

// Of bytes that are given piece by piece.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void add(std::span<const std::byte> bytes);
  std::string text() const;  // 32 hexadecimal digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string checksum_of(std::span<const std::byte> bytes);

struct FileChecksum {
  std::string checksum, file;
};
// A line for each file.
std::string checksum_lines(std::span<const FileChecksum> files);
// Throws Error naming `path` unless `text` is just what checksum_lines() makes.
std::vector<FileChecksum> parse_checksum_lines(const std::string& text, const std::string& path);

}  // namespace pf
