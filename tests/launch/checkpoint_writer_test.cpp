#include "launch/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/backend.h"
#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

class Writer : public testing::Test {
 protected:
  // Rows [begin, end) of a whole tensor of 4 rows.
  std::vector<SavedPiece> piece(std::int64_t begin, std::int64_t end) {
    const Tensor data = Tensor::zeros({end - begin}, DType::f32, device);
    return {{"weights/w", {4}, {{begin}, {end - begin}}, 0, end - begin, data}};
  }
  static void wait_for(const CheckpointWriter& writer) {
    while (!writer.is_done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  const TemporaryFolder here;
  Device device{make_cpu_backend(1)};
};

TEST_F(Writer, WritesOnceTheLastRankHasGivenItsPieces) {
  CheckpointWriter writer(3, 6, 2);
  EXPECT_TRUE(writer.speaks_for(6));
  EXPECT_FALSE(writer.speaks_for(7));
  writer.write(here.path(), piece(0, 1));
  EXPECT_FALSE(writer.is_done());
  writer.write(here.path(), piece(1, 4));
  wait_for(writer);
  EXPECT_EQ(writer.failure(), "");
  EXPECT_EQ(writer.part().name, "part-00003.h5");
  EXPECT_EQ(writer.part().boxes.size(), 2u);
  EXPECT_FALSE(here.read("part-00003.h5").empty());
}

TEST_F(Writer, TellsAFailureAndGoesOn) {
  CheckpointWriter writer(0, 0, 1);
  writer.write(here.path("missing"), piece(0, 4));
  wait_for(writer);
  EXPECT_NE(writer.failure().find("missing/part-00000.h5: can't be made"), std::string::npos)
      << writer.failure();
  writer.write(here.path(), piece(0, 4));
  wait_for(writer);
  EXPECT_EQ(writer.failure(), "");
}

TEST_F(Writer, HoldsNothingOfARankOnceItIsAbandoned) {
  CheckpointWriter writer(0, 0, 2);
  writer.write(here.path(), piece(0, 4));
  EXPECT_GT(device.memory().live, 0u);
  writer.abandon();
  EXPECT_EQ(device.memory().live, 0u);
  writer.write(here.path(), piece(0, 4));
  writer.write(here.path(), piece(0, 4));
  EXPECT_TRUE(std::filesystem::is_empty(here.path()));
}

}  // namespace
}  // namespace pf
