#include "core/device.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "core/tensor.h"
#include "tests/tensors.h"

namespace pf {
namespace {

struct DeviceTest : testing::Test {
  Device device{make_cpu_backend(1)};
};

TEST_F(DeviceTest, LiveAndPeakCountBytesAsAskedFor) {
  void* a = device.allocate(1000);
  EXPECT_EQ(device.memory().live, 1000u);
  void* b = device.allocate(1);
  EXPECT_EQ(device.memory().live, 1001u);
  device.release(a, 1000);
  EXPECT_EQ(device.memory().live, 1u);
  EXPECT_EQ(device.memory().peak, 1001u);
  device.release(b, 1);
  EXPECT_EQ(device.memory().live, 0u);
}

TEST_F(DeviceTest, ARestartedPeakCountsFromWhatIsLive) {
  void* a = device.allocate(1000);
  void* b = device.allocate(500);
  device.release(a, 1000);
  device.restart_peak();
  EXPECT_EQ(device.memory().peak, 500u);
  void* c = device.allocate(300);
  EXPECT_EQ(device.memory().peak, 800u);
  device.release(b, 500);
  device.release(c, 300);
}

TEST_F(DeviceTest, AFreedBlockIsKeptAndGivenOutAgain) {
  const std::size_t bytes = 100'000;
  void* a = device.allocate(bytes);
  device.release(a, bytes);
  const auto other = std::make_unique<std::byte[]>(bytes);  // would get the block if it were free
  EXPECT_NE(other.get(), a);
  void* b = device.allocate(bytes - 1000);  // a little less: the same rounded size
  EXPECT_EQ(a, b);
  device.release(b, bytes - 1000);
}

TEST_F(DeviceTest, ABlockInUseIsNotGivenOut) {
  void* a = device.allocate(4096);
  void* b = device.allocate(4096);
  EXPECT_NE(a, b);
  device.release(a, 4096);
  device.release(b, 4096);
}

TEST_F(DeviceTest, BlocksAreAlignedTo64Bytes) {
  for (std::size_t bytes : {1, 63, 65, 1000, 100'001, 5'000'001}) {
    void* a = device.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a) % 64, 0u) << bytes;
    device.release(a, bytes);
  }
}

TEST_F(DeviceTest, NoBytesNeedNoBlock) {
  EXPECT_EQ(device.allocate(0), nullptr);
  device.release(nullptr, 0);
  EXPECT_EQ(device.memory().peak, 0u);
}

TEST_F(DeviceTest, OutOfMemoryIsAnErrorThatTellsTheBytes) {
  const Tensor x = Tensor::empty({250}, DType::f64, device);
  const std::size_t impossible = std::size_t{1} << 60;
  expect_error([&] { device.allocate(impossible); },
               {"out of memory", "1152921504606846976 bytes", "2000 live", "2000 at the peak"});
  EXPECT_EQ(device.memory().live, 2000u);
}

TEST(DeviceLimit, CountsWhatIsHeldAndGivesUpWhatIsKeptForReuse) {
  Device limited(make_cpu_backend(1), 1 << 20);
  void* small = limited.allocate(1 << 19);
  expect_error([&] { limited.allocate(1 << 20); },
               {"out of memory", "1048576 bytes", "524288 live", "of 1048576 that a rank may use"});
  limited.release(small, 1 << 19);
  void* all = limited.allocate(1 << 20);  // the kept block had to go
  EXPECT_NE(all, nullptr);
  limited.release(all, 1 << 20);
}

TEST_F(DeviceTest, TensorsGiveTheirBytesBack) {
  {
    const Tensor x = Tensor::empty({10, 10}, DType::f32, device);
    const Tensor view = x.rows(2, 3), copy = x;
    EXPECT_EQ(device.memory().live, 400u);
  }
  EXPECT_EQ(device.memory().live, 0u);
  EXPECT_EQ(device.memory().peak, 400u);
}

TEST_F(DeviceTest, AViewKeepsItsStorageAlive) {
  Tensor view;
  {
    const Tensor x = Tensor::empty({10, 10}, DType::f32, device);
    view = x.columns(1, 2);
  }
  EXPECT_EQ(device.memory().live, 400u);
}

TEST_F(DeviceTest, SeveralThreadsMayAllocate) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const std::size_t bytes = std::size_t(64 + i % 7 * 100);
        void* block = device.allocate(bytes);
        device.release(block, bytes);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(device.memory().live, 0u);
  EXPECT_GE(device.memory().peak, 664u);
  EXPECT_LE(device.memory().peak, 4 * 664u);
}

TEST(MetaDevice, CountsBytesWithoutMemory) {
  Device device(make_meta_backend(make_cpu_backend(1)));
  const std::int64_t terabyte = std::int64_t{1} << 40;
  {
    const Tensor x = Tensor::empty({terabyte}, DType::u8, device);
    EXPECT_EQ(x.raw(), nullptr);
    EXPECT_TRUE(x.is_meta());
    EXPECT_EQ(device.memory().live, std::size_t(terabyte));
  }
  EXPECT_EQ(device.memory().live, 0u);
  EXPECT_EQ(device.memory().peak, std::size_t(terabyte));
}

}  // namespace
}  // namespace pf
