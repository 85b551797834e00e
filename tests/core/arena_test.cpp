#include "core/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/cpu/cpu_backend.h"

namespace pf {
namespace {

struct ArenaTest : testing::Test {
  std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Arena arena{*backend};

  std::byte* block(std::size_t bytes) { return static_cast<std::byte*>(arena.allocate(bytes)); }
};

TEST_F(ArenaTest, BlocksOfOtherSizesShareMemory) {
  for (const std::size_t count : {1, 3, 10, 30}) {
    std::vector<std::byte*> blocks;
    const std::size_t bytes = 30'000'000 / count;
    for (std::size_t i = 0; i < count; ++i) blocks.push_back(block(bytes));
    for (std::byte* b : blocks) arena.release(b, bytes);
  }
  EXPECT_LT(arena.held(), 30'100'000u);
}

TEST_F(ArenaTest, ABlockGoesToTheSmallestHoleThatFits) {
  std::byte* large = block(4096);
  block(64);
  std::byte* small = block(1024);
  block(64);
  arena.release(large, 4096);
  arena.release(small, 1024);
  EXPECT_EQ(block(1000), small);
  EXPECT_EQ(block(1000), large);
  EXPECT_EQ(block(64), large + 1024) << "the rest of a hole is one";
}

TEST_F(ArenaTest, NeighbouringHolesAreOne) {
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(block(640));
  for (const int i : {0, 2, 1}) arena.release(blocks[std::size_t(i)], 640);
  EXPECT_EQ(block(3 * 640), blocks[0]);
}

TEST_F(ArenaTest, TheLastHoleGrows) {
  std::byte* first = block(1 << 20);
  arena.release(first, 1 << 20);
  EXPECT_EQ(block(1 << 21), first);
  EXPECT_EQ(arena.held(), std::size_t{1} << 21);
}

struct SmallRanges : CpuBackend {
  SmallRanges() : CpuBackend(1) {}
  std::size_t range_bytes() const override { return 1 << 20; }
};

TEST(ArenaOfSeveralRanges, NoBlockLiesInTwo) {
  SmallRanges backend;
  Arena arena(backend);
  std::vector<void*> blocks;
  for (int i = 0; i < 12; ++i) blocks.push_back(arena.allocate(600'000));
  EXPECT_GT(arena.held(), 7'000'000u);
  for (void* b : blocks) arena.release(b, 600'000);
  std::vector<void*> again;
  for (int i = 0; i < 12; ++i) again.push_back(arena.allocate(600'000));
  std::ranges::sort(blocks);
  std::ranges::sort(again);
  EXPECT_EQ(again, blocks);
}

TEST(ArenaOfSeveralRanges, AnyBlockFits) {
  SmallRanges backend;
  Arena arena(backend);
  auto* block = static_cast<std::byte*>(arena.allocate(10'000'000));
  ASSERT_NE(block, nullptr);
  std::memset(block, 1, 10'000'000);
  arena.release(block, 10'000'000);
  EXPECT_EQ(arena.allocate(100), block);
}

TEST_F(ArenaTest, TheLimitIsOfBlocksAndHoles) {
  Arena limited(*backend, 1 << 20);
  void* first = limited.allocate(1 << 19);
  EXPECT_EQ(limited.allocate((1 << 19) + 1), nullptr);
  void* second = limited.allocate(1 << 19);
  EXPECT_NE(second, nullptr);
  EXPECT_EQ(limited.allocate(1), nullptr);
  limited.release(first, 1 << 19);
  EXPECT_EQ(limited.allocate(1 << 18), first);
}

TEST_F(ArenaTest, BlocksNeverOverlap) {
  struct Block {
    std::byte* begin;
    std::size_t bytes;
    std::uint8_t value;
  };
  std::vector<Block> blocks;
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    if (blocks.size() < 40 || random() % 2 == 0) {
      const std::size_t bytes = 1 + (random() % 3 == 0 ? random() % 100'000 : random() % 500);
      blocks.push_back({block(bytes), bytes, std::uint8_t(random())});
      std::memset(blocks.back().begin, blocks.back().value, bytes);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().begin) % 64, 0u);
    } else {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      const Block& b = blocks.back();
      const auto is_kept = [&](std::byte x) { return std::to_integer<int>(x) == b.value; };
      EXPECT_TRUE(std::all_of(b.begin, b.begin + b.bytes, is_kept));
      arena.release(b.begin, b.bytes);
      blocks.pop_back();
    }
  }
}

TEST_F(ArenaTest, TheSameCallsGiveTheSamePlaces) {
  const auto places = [this] {
    Arena fresh(*backend);
    std::vector<std::ptrdiff_t> found;
    auto* begin = static_cast<std::byte*>(fresh.allocate(64));
    std::vector<std::pair<void*, std::size_t>> blocks;
    std::mt19937 random(2);
    for (int i = 0; i < 500; ++i) {
      const std::size_t bytes = 1 + random() % 5000;
      blocks.emplace_back(fresh.allocate(bytes), bytes);
      found.push_back(static_cast<std::byte*>(blocks.back().first) - begin);
      if (random() % 2 == 0) {
        std::swap(blocks[random() % blocks.size()], blocks.back());
        fresh.release(blocks.back().first, blocks.back().second);
        blocks.pop_back();
      }
    }
    return found;
  };
  EXPECT_EQ(places(), places());
}

}  // namespace
}  // namespace pf
