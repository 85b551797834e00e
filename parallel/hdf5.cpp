#include "parallel/hdf5.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "core/error.h"

namespace pf {
namespace {

std::mutex& library() {
  static std::mutex mutex;
  return mutex;
}

// What the innermost function on the error stack says.
std::string reason() {
  std::string text;
  const auto take = [](unsigned, const H5E_error2_t* error, void* into) {
    auto& innermost = *static_cast<std::string*>(into);
    if (innermost.empty() && error->desc != nullptr) innermost = error->desc;
    return herr_t{0};
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "HDF5 gives no reason" : text;
}

Hdf5Handle access_properties(const std::string& path) {
  Hdf5Handle access = properties_handle(H5Pcreate(H5P_FILE_ACCESS), path);
  check_hdf5(H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG), path, "opened");
  return access;
}

// Nothing is written to a disk, and files in memory are the same for HDF5 if their names are.
std::string name_in_memory() {
  static std::int64_t number = 0;  // under the lock
  return "memory-" + std::to_string(++number);
}

// HDF5 grows and lets go of a vector.
void* grow(void*, std::size_t size, H5FD_file_image_op_t, void* vector) {
  auto& bytes = *static_cast<std::vector<std::byte>*>(vector);
  try {
    bytes.resize(size);
  } catch (const std::exception&) {
    return nullptr;
  }
  return bytes.data();
}

void* allocate(std::size_t size, H5FD_file_image_op_t op, void* vector) {
  return grow(nullptr, size, op, vector);
}

herr_t keep(void*, H5FD_file_image_op_t, void*) {
  return 0;
}

void* same(void* vector) {
  return vector;
}

herr_t forget(void*) {
  return 0;
}

// HDF5 File Format Specification 3.0, II.A, superblocks of version 2 and 3: the version and the end
// of file address.
constexpr std::size_t version_at = 8, end_of_file_at = 28;

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(library()) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::int64_t check_hdf5(std::int64_t result, const std::string& file, const char* what) {
  if (result < 0) throw Error(file + ": can't be " + what + ": " + reason());
  return result;
}

Hdf5Handle file_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "opened"), H5Fclose};
}
Hdf5Handle group_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "used"), H5Gclose};
}
Hdf5Handle dataset_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "used"), H5Dclose};
}
Hdf5Handle space_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "used"), H5Sclose};
}
Hdf5Handle type_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "used"), H5Tclose};
}
Hdf5Handle attribute_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "used"), H5Aclose};
}
Hdf5Handle properties_handle(hid_t id, const std::string& file) {
  return {check_hdf5(id, file, "used"), H5Pclose};
}

Hdf5Image::Hdf5Image(const std::string& path)
    : path_(path), bytes_(std::make_unique<std::vector<std::byte>>()) {
  const Hdf5Handle access = access_properties(path);
  const auto check = [&](herr_t result) { check_hdf5(result, path_, "made"); };
  check(H5Pset_libver_bounds(access.id(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST));
  check(H5Pset_fapl_core(access.id(), alignment, false));
  check(H5Pset_alignment(access.id(), alignment, alignment));
  check(H5Pset_meta_block_size(access.id(), alignment));
  H5FD_file_image_callbacks_t memory{allocate, nullptr, grow, keep, same, forget, bytes_.get()};
  check(H5Pset_file_image_callbacks(access.id(), &memory));
  file_ = file_handle(H5Fcreate(name_in_memory().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id()),
                      path);
}

Hdf5Image::~Hdf5Image() = default;

Hdf5Image::Content Hdf5Image::finish() {
  check_hdf5(H5Fclose(file_.release()), path_, "made");
  Content content{std::move(*bytes_), 0};
  require(content.bytes.size() >= std::size_t(alignment), path_, ": HDF5 made ",
          content.bytes.size(), " bytes");
  const int version = int(content.bytes[version_at]);
  require(version == 2 || version == 3, path_, ": HDF5 made a superblock of version ", version,
          "; wanted 2 or 3");
  std::memcpy(&content.size, &content.bytes[end_of_file_at], sizeof content.size);
  content.bytes.resize(std::min(content.bytes.size(), std::size_t(content.size)));
  return content;
}

Hdf5Handle open_hdf5_image(std::span<const std::byte> bytes, const std::string& path) {
  const Hdf5Handle access = access_properties(path);
  check_hdf5(H5Pset_fapl_core(access.id(), Hdf5Image::alignment, false), path, "opened");
  std::byte none{};
  // HDF5 copies them.
  auto* start = bytes.empty() ? &none : const_cast<std::byte*>(bytes.data());
  const std::size_t size = std::max<std::size_t>(bytes.size(), 1);
  check_hdf5(H5Pset_file_image(access.id(), start, size), path, "opened");
  return file_handle(H5Fopen(name_in_memory().c_str(), H5F_ACC_RDONLY, access.id()), path);
}

Hdf5Handle open_hdf5_file(const std::string& path) {
  const Hdf5Handle access = access_properties(path);
  // Network file systems refuse locks, and nobody writes.
  check_hdf5(H5Pset_file_locking(access.id(), false, true), path, "opened");
  return file_handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), path);
}

}  // namespace pf
