// The bytes of a file in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pf {

// Read-only. Files of 64 KiB and more are mapped, so that opening costs nothing and ranks share the
// pages; smaller ones are copied, since a process may map only some 65,000 files. The file must not
// shrink while it is mapped. Throws Error if it can't be opened or read.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::uint8_t> bytes() const { return bytes_; }
  // These bytes were read and are not wanted soon: their pages no longer count as the process's.
  void forget(std::size_t begin, std::size_t bytes) const;

 private:
  std::span<const std::uint8_t> bytes_;
  std::vector<std::uint8_t> copy_;  // empty: bytes_ is a mapping
};

}  // namespace pf
