#include "parallel/checkpoint_index.h"

#include <gtest/gtest.h>

#include <string>

#include "parallel/hdf5.h"
#include "tests/parallel/small_checkpoint.h"
#include "tests/tensors.h"

namespace pf {
namespace {

void add_number(const Hdf5Image& image, const char* name, std::int64_t value) {
  const Hdf5Handle space = space_handle(H5Screate(H5S_SCALAR), "test");
  const Hdf5Handle attribute = attribute_handle(
      H5Acreate2(image.file(), name, H5T_STD_I64LE, space.id(), H5P_DEFAULT, H5P_DEFAULT), "test");
  ASSERT_GE(H5Awrite(attribute.id(), H5T_NATIVE_INT64, &value), 0);
}

void add_text(const Hdf5Image& image, const char* name, const std::string& value) {
  const Hdf5Handle space = space_handle(H5Screate(H5S_SCALAR), "test");
  const Hdf5Handle type = type_handle(H5Tcopy(H5T_C_S1), "test");
  H5Tset_size(type.id(), value.size());
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  const Hdf5Handle attribute = attribute_handle(
      H5Acreate2(image.file(), name, type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT), "test");
  ASSERT_GE(H5Awrite(attribute.id(), type.id(), value.data()), 0);
}

// Files of other programs, and of this one in another version.
std::vector<std::byte> image_of(const std::function<void(const Hdf5Image&)>& fill) {
  const Hdf5Lock lock;
  Hdf5Image image("test");
  fill(image);
  auto [bytes, size] = image.finish();
  bytes.resize(std::size_t(size));
  return bytes;
}

TEST(CheckpointIndex, AnotherProgramsFileIsRefused) {
  const std::vector<std::byte> empty = image_of([](const Hdf5Image&) {});
  expect_error([&] { read_index(empty, "x.h5"); },
               {"x.h5: an HDF5 file that is no pentafold checkpoint"});
  const std::vector<std::byte> other = image_of([](const Hdf5Image& image) {
    add_text(image, "format", "another checkpoint");
    add_number(image, "format_version", 1);
  });
  expect_error([&] { read_index(other, "x.h5"); },
               {"x.h5: an HDF5 file that is no pentafold checkpoint"});
  const std::vector<std::byte> number = image_of([](const Hdf5Image& image) {
    add_number(image, "format", 1);
    add_number(image, "format_version", 1);
  });
  expect_error([&] { read_index(number, "x.h5"); },
               {"x.h5: an HDF5 file that is no pentafold checkpoint"});
}

TEST(CheckpointIndex, WhatIsNoHdf5FileIsRefused) {
  const std::string text = "Not a file of that kind.\n";
  expect_error([&] { read_index(std::as_bytes(std::span(text)), "x.h5"); },
               {"x.h5: can't be opened: "});
  expect_error([&] { read_index({}, "x.h5"); }, {"x.h5: can't be opened: "});
}

TEST(CheckpointIndex, ANewerFormatIsRefused) {
  const std::vector<std::byte> newer = image_of([](const Hdf5Image& image) {
    add_text(image, "format", "pentafold checkpoint");
    add_number(image, "format_version", checkpoint_format + 1);
  });
  expect_error([&] { read_index(newer, "x.h5"); },
               {"x.h5: format_version is 2; this program reads 1: take a newer one"});
}

}  // namespace
}  // namespace pf
