// HDF5 for files that are made in memory and read: handles that close, and failures that throw.
#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pf {

// The library serves one thread at a time: hold this while calling it, and until handles are gone.
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::lock_guard<std::mutex> lock_;
};

class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept { *this = std::move(other); }
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  hid_t id() const { return id_; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

// Throws Error, "FILE: can't be WHAT: " and the library's reason, if `result` says that a call
// failed.
std::int64_t check_hdf5(std::int64_t result, const std::string& file, const char* what);

// Checked, and closed at the end of the scope.
Hdf5Handle file_handle(hid_t id, const std::string& file);
Hdf5Handle group_handle(hid_t id, const std::string& file);
Hdf5Handle dataset_handle(hid_t id, const std::string& file);
Hdf5Handle space_handle(hid_t id, const std::string& file);
Hdf5Handle type_handle(hid_t id, const std::string& file);
Hdf5Handle attribute_handle(hid_t id, const std::string& file);
Hdf5Handle properties_handle(hid_t id, const std::string& file);

// A new file that is made in memory, since HDF5 can't let go of one that it failed to write. It is
// of the newest format. `path`: for messages.
class Hdf5Image {
 public:
  // Datasets of some size start at multiples of it, behind what says where they are.
  static constexpr std::int64_t alignment = 4096;

  explicit Hdf5Image(const std::string& path);
  ~Hdf5Image();
  Hdf5Image(const Hdf5Image&) = delete;
  Hdf5Image& operator=(const Hdf5Image&) = delete;

  hid_t file() const { return file_.id(); }
  const std::string& path() const { return path_; }
  // Closes it. What the file begins with; from there up to `size` come datasets that were given
  // space, but no data.
  struct Content {
    std::vector<std::byte> bytes;
    std::int64_t size = 0;
  };
  Content finish();

 private:
  std::string path_;
  std::unique_ptr<std::vector<std::byte>> bytes_;
  Hdf5Handle file_;
};

// For reading: a file's bytes, and a file on the disk. Throw Error naming `path`.
Hdf5Handle open_hdf5_image(std::span<const std::byte> bytes, const std::string& path);
Hdf5Handle open_hdf5_file(const std::string& path);

}  // namespace pf
