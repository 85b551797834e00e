#include "parallel/checkpoint_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

#include "tests/launch/full_disk.h"
#include "tests/parallel/small_checkpoint.h"
#include "tests/tensors.h"

namespace pf {
namespace {

// Calls body(box) for each box of a whole tensor that has elements.
void for_each_box(const Shape& whole, const std::function<void(const Block&)>& body, Block box = {},
                  int dim = 0) {
  if (dim == 0) box.extents = whole;
  if (dim == whole.dims()) return body(box);
  for (std::int64_t begin = 0; begin < whole[dim]; ++begin)
    for (std::int64_t end = begin + 1; end <= whole[dim]; ++end) {
      box.begin[std::size_t(dim)] = begin;
      box.extents.set(dim, end - begin);
      for_each_box(whole, body, box, dim + 1);
    }
}

void expect_saved(const Checkpoint& checkpoint, std::size_t tensor, const Block& box,
                  Device& device) {
  const SmallTensor& of = small_tensors()[tensor];
  const Tensor read = Tensor::empty(box.extents, of.type, device);
  checkpoint.read(of.name, of.shape, box, read);
  const Tensor wanted = small_data(device, tensor, elements_of(box, of.shape));
  EXPECT_EQ(elements(read), elements(wanted)) << of.name << ' ' << box.extents;
}

void expect_all_saved(const std::string& folder) {
  Device device(make_cpu_backend(1));
  const Checkpoint checkpoint(folder);
  for (int part = 0; part < checkpoint.parts(); ++part) checkpoint.verify(part);
  for (std::size_t tensor = 0; tensor < small_tensors().size(); ++tensor)
    expect_saved(checkpoint, tensor, {{}, small_tensors()[tensor].shape}, device);
}

// Opens a checkpoint and verifies all of it.
void verify(const std::string& folder) {
  const Checkpoint checkpoint(folder);
  for (int part = 0; part < checkpoint.parts(); ++part) checkpoint.verify(part);
}

TEST(CheckpointFiles, ARangeOfABlockIsItsBoxesInOrder) {
  for (const Shape& whole : {Shape{7}, Shape{4, 5}, Shape{3, 4, 3}, Shape{3, 3, 2, 3}})
    for_each_box(whole, [&](const Block& block) {
      const std::vector<std::int64_t> all = elements_of(block, whole);
      for (std::size_t begin = 0; begin <= all.size(); ++begin)
        for (std::size_t end = begin; end <= all.size(); ++end) {
          std::vector<std::int64_t> found;
          const std::vector<Block> boxes = boxes_of(block, std::int64_t(begin), std::int64_t(end));
          for (const Block& box : boxes)
            for (std::int64_t element : elements_of(box, whole)) found.push_back(element);
          ASSERT_EQ(found, std::vector(all.begin() + std::ptrdiff_t(begin),
                                       all.begin() + std::ptrdiff_t(end)))
              << block.extents << ' ' << begin << ' ' << end;
          ASSERT_LE(boxes.size(), std::size_t(2 * whole.dims() - 1));
        }
    });
}

TEST(CheckpointFiles, EachBoxReadsAsItWasWritten) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const Checkpoint checkpoint(here.path());
  Device device(make_cpu_backend(1));
  for (std::size_t tensor = 0; tensor < small_tensors().size(); ++tensor)
    for_each_box(small_tensors()[tensor].shape,
                 [&](const Block& box) { expect_saved(checkpoint, tensor, box, device); });
}

TEST(CheckpointFiles, WhatIsSaidBesideTheTensorsIsRead) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const Checkpoint checkpoint(here.path());
  EXPECT_EQ(checkpoint.folder(), here.path());
  EXPECT_EQ(checkpoint.step(), 50);
  EXPECT_EQ(checkpoint.facts().counts, small_facts().counts);
  EXPECT_EQ(checkpoint.facts().texts, small_facts().texts);
  EXPECT_EQ(checkpoint.facts().lists, small_facts().lists);
  ASSERT_EQ(checkpoint.parts(), 3);
  EXPECT_EQ(checkpoint.name_of_part(2), "part-00002.h5");
  for (int part = 0; part < 3; ++part)
    EXPECT_EQ(checkpoint.bytes_of_part(part),
              std::int64_t(std::filesystem::file_size(here.path(checkpoint.name_of_part(part)))));
  ASSERT_EQ(checkpoint.tensors().size(), small_tensors().size());
  for (std::size_t tensor = 0; tensor < small_tensors().size(); ++tensor) {
    const SavedTensor& saved = checkpoint.tensors()[tensor];
    EXPECT_EQ(saved.name, small_tensors()[tensor].name);
    EXPECT_EQ(saved.type, small_tensors()[tensor].type);
    EXPECT_EQ(saved.shape, small_tensors()[tensor].shape);
    EXPECT_EQ(checkpoint.find(saved.name), &saved);
  }
  EXPECT_EQ(checkpoint.find("weights/other"), nullptr);
}

TEST(CheckpointFiles, AnotherTypeShapeOrNameIsNotRead) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const Checkpoint checkpoint(here.path());
  Device device(make_cpu_backend(1));
  const Tensor f32 = Tensor::empty({7}, DType::f32, device);
  const Tensor f64 = Tensor::empty({7}, DType::f64, device);
  const Block all{{}, {7}};
  expect_error([&] { checkpoint.read("weights/norm", {7}, all, f32); },
               {"checkpoint.h5", "weights/norm is f64 [7]; wanted f32 [7]"});
  expect_error([&] { checkpoint.read("weights/norm", {8}, all, f64); },
               {"checkpoint.h5", "weights/norm is f64 [7]; wanted f64 [8]"});
  expect_error([&] { checkpoint.read("weights/bias", {7}, all, f64); },
               {"checkpoint.h5", "has no weights/bias"});
  expect_error([&] { checkpoint.read("weights/norm", {7}, {{1}, {7}}, f64); }, {"a box [7]"});
}

TEST(CheckpointFiles, TwoCheckpointsOfOneFolderAreTwo) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const Checkpoint first(here.path()), second(here.path());
  write_small_checkpoint(here.path());
  expect_all_saved(here.path());
}

TEST(CheckpointFiles, ThreadsReadAtOnce) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const Checkpoint checkpoint(here.path());
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([&, thread] {
      Device device(make_cpu_backend(1));
      checkpoint.verify(thread % checkpoint.parts());
      for (int round = 0; round < 20; ++round)
        for (std::size_t tensor = 0; tensor < small_tensors().size(); ++tensor)
          expect_saved(checkpoint, tensor, {{}, small_tensors()[tensor].shape}, device);
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(CheckpointFiles, TheEnvironmentDoesNotRedirectReading) {
  const TemporaryFolder here, other;
  write_small_checkpoint(here.path());
  other.write("part-00000.h5", "another's");
  ASSERT_EQ(setenv("HDF5_VDS_PREFIX", other.path().c_str(), 1), 0);
  expect_all_saved(here.path());
  unsetenv("HDF5_VDS_PREFIX");
}

TEST(CheckpointFiles, ChecksumsAreLinesOfXxh128sum) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const std::string lines = here.read("checksums.xxh128");
  EXPECT_EQ(std::ranges::count(lines, '\n'), 4);
  EXPECT_EQ(lines.substr(32, 16), "  part-00000.h5\n");
  EXPECT_TRUE(lines.ends_with("  checkpoint.h5\n"));
}

// Of h5py_check.py.
TEST(CheckpointFiles, AFolderIsLeftForOtherReaders) {
  const char* folder = std::getenv("PENTAFOLD_CHECKPOINT");
  if (folder == nullptr) GTEST_SKIP() << "PENTAFOLD_CHECKPOINT does not say where";
  write_small_checkpoint(folder);
}

TEST(CheckpointFiles, AnElementThatNoPartHasIsRefused) {
  const TemporaryFolder here;
  std::vector<PartFile> parts = write_small_parts(here.path());
  parts[1].boxes.erase(parts[1].boxes.begin() + 1);  // of weights/layers.0.w, from row 1 on
  expect_error([&] { write_master(here.path(), small_facts(), parts); },
               {"weights/layers.0.w [5, 6]: elements from [1, 2] on are in no part"});
}

TEST(CheckpointFiles, AnElementThatTwoPartsHaveIsRefused) {
  const TemporaryFolder here;
  std::vector<PartFile> parts = write_small_parts(here.path());
  for (SavedBox& box : parts[2].boxes)
    if (box.tensor == "weights/norm") box.box.extents.set(0, 5);
  expect_error(
      [&] { write_master(here.path(), small_facts(), parts); },
      {"weights/norm [7]: elements from [4] on are in ", "part-00001.h5", "part-00002.h5"});
}

TEST(CheckpointFiles, ElementsTwiceAndElementsMissingDoNotMakeUpForEachOther) {
  const TemporaryFolder here;
  std::vector<PartFile> parts = write_small_parts(here.path());
  for (SavedBox& box : parts[2].boxes)
    if (box.tensor == "weights/norm") box.box.begin[0] = 1;
  expect_error([&] { write_master(here.path(), small_facts(), parts); },
               {"weights/norm [7]: elements from [0] on are in no part"});
}

TEST(CheckpointFiles, PartsThatDisagreeAreRefused) {
  const TemporaryFolder here;
  const std::vector<PartFile> good = write_small_parts(here.path());
  std::vector<PartFile> parts = good;
  parts[2].boxes[0].whole = {8};
  expect_error([&] { write_master(here.path(), small_facts(), parts); },
               {"weights/norm: f64 [7] in part-00001.h5, f64 [8] in part-00002.h5"});
  parts = good;
  parts[2].boxes[0].type = DType::f32;
  expect_error([&] { write_master(here.path(), small_facts(), parts); },
               {"weights/norm: f64 [7] in part-00001.h5, f32 [7] in part-00002.h5"});
  parts = good;
  parts.erase(parts.begin() + 1);
  expect_error([&] { write_master(here.path(), small_facts(), parts); },
               {"part-00001.h5 is missing"});
}

TEST(CheckpointFiles, AChangedByteIsNoticedWhereverItIs) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const Checkpoint checkpoint(here.path());
  std::vector<std::string> files{"checkpoint.h5", "checksums.xxh128"};
  for (int part = 0; part < 3; ++part) files.push_back(checkpoint.name_of_part(part));
  for (std::size_t file = 0; file < files.size(); ++file) {
    const std::string whole = here.read(files[file]);
    std::fstream bytes(here.path(files[file]), std::ios::binary | std::ios::in | std::ios::out);
    const auto put = [&](std::size_t at, char byte) {
      bytes.seekp(std::streamoff(at));
      bytes.put(byte).flush();
    };
    for (std::size_t at = 0; at < whole.size(); ++at) {
      put(at, char(whole[at] ^ (1 << at % 8)));
      const auto open = [&] { verify(here.path()); };
      const auto verify_part = [&] { checkpoint.verify(int(file) - 2); };
      // A changed checksum of a file says that the file is damaged.
      const char* named = file == 1 ? "checksums.xxh128" : files[file].c_str();
      if (file < 2)
        expect_error(open, {named});
      else
        expect_error(verify_part, {named, "is damaged"});
      put(at, whole[at]);
      ASSERT_FALSE(HasFailure()) << files[file] << ", byte " << at;
    }
  }
  expect_all_saved(here.path());
}

TEST(CheckpointFiles, AFileOfAnotherSizeOrNoneIsNoticed) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  for (const char* file : {"checkpoint.h5", "checksums.xxh128", "part-00001.h5"}) {
    const std::string whole = here.read(file);
    const auto refused = [&](const std::string& content) {
      here.write(file, content);
      expect_error([&] { Checkpoint{here.path()}; }, {file});
    };
    refused("");
    refused(whole.substr(0, whole.size() / 2));
    refused(whole.substr(0, whole.size() - 1));
    refused(whole + '\n');
    refused("Something else, of no use.\n");
    std::filesystem::remove(here.path(file));
    expect_error([&] { Checkpoint{here.path()}; }, {file, "No such file or directory"});
    here.write(file, whole);
  }
  verify(here.path());
  expect_error([&] { Checkpoint{here.path("nowhere")}; }, {"nowhere", "No such file"});
}

TEST(CheckpointFiles, APartOfAnotherCheckpointIsNoticed) {
  const TemporaryFolder here;
  write_small_checkpoint(here.path());
  const std::string lines = here.read("checksums.xxh128");
  std::string swapped = lines;
  swapped.replace(0, 32, lines.substr(lines.find('\n') + 1, 32));
  here.write("checksums.xxh128", swapped);
  expect_error([&] { Checkpoint{here.path()}; },
               {"checksums.xxh128: its checksums of parts are not those in checkpoint.h5"});
}

TEST(CheckpointFiles, AFullDiskIsAnErrorAndTheNextCheckpointIsWhole) {
  const TemporaryFolder here;
  Device device(make_cpu_backend(1));
  const std::atomic<bool> is_given_up = false;
  const Tensor data = random_tensor({10000}, DType::f64, device, 1);
  const std::vector<SavedPiece> pieces{{"weights/w", {10000}, {{}, {10000}}, 0, 10000, data}};
  for (int round = 0; round < 3; ++round) {
    {
      const FullDisk full(16384);
      expect_error([&] { write_part(here.path(), 0, pieces, is_given_up); },
                   {"part-00000.h5: can't be written: File too large"});
    }
    EXPECT_FALSE(std::filesystem::exists(here.path("part-00000.h5")));
    const std::vector<PartFile> parts{write_part(here.path(), 0, pieces, is_given_up)};
    {
      const FullDisk full(64);
      expect_error([&] { write_master(here.path(), small_facts(), parts); },
                   {"checkpoint.h5: can't be written: File too large"});
    }
    write_master(here.path(), small_facts(), parts);
    verify(here.path());
  }
}

TEST(CheckpointFiles, AMissingFolderIsAnError) {
  const TemporaryFolder here;
  expect_error([&] { write_small_parts(here.path("none")); },
               {"none/part-00000.h5: can't be made: No such file or directory"});
  const std::vector<PartFile> parts = write_small_parts(here.path());
  expect_error([&] { write_master(here.path("none"), small_facts(), parts); },
               {"none/checkpoint.h5: can't be made: No such file or directory"});
}

TEST(CheckpointFiles, WritingIsGivenUp) {
  const TemporaryFolder here;
  Device device(make_cpu_backend(1));
  const std::atomic<bool> is_given_up = true;
  expect_error([&] { write_part(here.path(), 0, small_pieces(device)[0], is_given_up); },
               {"part-00000.h5: given up"});
  EXPECT_TRUE(std::filesystem::is_empty(here.path()));
}

TEST(CheckpointFiles, FoldersAreFoundByTheirStepNewestFirst) {
  const TemporaryFolder here;
  for (const char* name : {"step-00000009", "step-00000100", "step-123456789", "step-00000020",
                           "step-00000020.writing", "step-20", "step-000000200", "best"})
    std::filesystem::create_directory(here.path(name));
  EXPECT_EQ(checkpoints_in(here.path()),
            (std::vector{here.path("step-123456789"), here.path("step-00000100"),
                         here.path("step-00000020"), here.path("step-00000009")}));
  EXPECT_TRUE(checkpoints_in(here.path("none")).empty());
  EXPECT_EQ(checkpoint_name(50), "step-00000050");
}

}  // namespace
}  // namespace pf
