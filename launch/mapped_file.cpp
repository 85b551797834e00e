#include "launch/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace pf {
namespace {

constexpr std::size_t smallest_mapping = 64 << 10;

std::string reason() {
  return std::generic_category().message(errno);
}

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  require(file.number >= 0, path, ": can't be opened: ", reason());
  struct stat facts {};
  require(fstat(file.number, &facts) == 0, path, ": can't be read: ", reason());
  require(S_ISREG(facts.st_mode), path, ": is not a regular file");
  const auto size = static_cast<std::size_t>(facts.st_size);
  if (size >= smallest_mapping) {
    void* start = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.number, 0);
    require(start != MAP_FAILED, path, ": can't be mapped: ", reason());
    bytes_ = {static_cast<const std::uint8_t*>(start), size};
    return;
  }
  copy_.resize(size);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = read(file.number, copy_.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    require(got > 0, path, ": can't be read: ", got == 0 ? "it shrinks" : reason());
    done += static_cast<std::size_t>(got);
  }
  bytes_ = copy_;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), copy_(std::move(other.copy_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(copy_, other.copy_);
  return *this;
}

// One access may have mapped 64 KiB around it. Addresses, of which whole pages are advised.
void MappedFile::forget(std::size_t begin, std::size_t bytes) const {
  constexpr std::uintptr_t around = 64 << 10;
  if (!copy_.empty() || bytes == 0) return;
  const auto start = reinterpret_cast<std::uintptr_t>(bytes_.data());
  const std::uintptr_t first = std::max(start, (start + begin) / around * around);
  const std::uintptr_t end =
      std::min((start + begin + bytes + around - 1) / around * around, start + bytes_.size());
  madvise(const_cast<std::uint8_t*>(bytes_.data()) + (first - start), end - first, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (copy_.empty() && !bytes_.empty()) {
    munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
  }
}

}  // namespace pf
