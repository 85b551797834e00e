// What workers take of products: everything once, and no more than fits.
#include "core/cpu/product_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pf {
namespace {

using Counts = std::vector<std::int64_t>;

const std::vector<Counts> all_counts{
    {0}, {1}, {33}, {4096}, {0, 0, 7}, {100, 0, 1}, {1000, 30, 300}, {17, 17, 17, 17}};

std::int64_t sum(const Counts& counts) {
  std::int64_t all = 0;
  for (const std::int64_t count : counts) all += count;
  return all;
}

TEST(ProductTiles, HoldEachElementOnce) {
  constexpr std::int64_t columns = 75;
  for (const Counts& counts : all_counts)
    for (const int workers : {1, 2, 5}) {
      std::vector<int> seen(std::size_t(sum(counts) * columns), 0);
      std::vector<std::int64_t> group_of;
      for (std::size_t group = 0; group < counts.size(); ++group)
        group_of.insert(group_of.end(), std::size_t(counts[group]), std::int64_t(group));
      for (const Tile& tile : tiles_of(counts, workers)) {
        const Interval mine = tile.columns(columns);
        EXPECT_EQ(mine.begin % gemm_block, 0);
        for (std::int64_t r = tile.rows.begin; r < tile.rows.end; ++r) {
          EXPECT_EQ(group_of[std::size_t(r)], tile.group);
          for (std::int64_t c = mine.begin; c < mine.end; ++c) ++seen[std::size_t(r * columns + c)];
        }
      }
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), std::ssize(seen)) << workers;
    }
}

TEST(ProductTiles, OfFewRowsDivideColumns) {
  EXPECT_EQ(tiles_of(Counts{3}, 4).size(), 4);
  EXPECT_EQ(tiles_of(Counts{4096}, 2).size(), 15);
}

// Weight gradients: also of groups without rows, whose gradient is zero.
TEST(ProductTiles, PiecesHoldEachWeightOnce) {
  for (const std::int64_t outputs : {5, 64, 200})
    for (const Counts& counts : all_counts)
      for (const int workers : {1, 2, 5}) {
        Packed w;
        w.groups = std::ssize(counts);
        w.inputs = 40;
        w.outputs = outputs;
        const std::int64_t of_group = w.inputs * w.outputs;
        std::vector<int> seen(std::size_t(w.groups * of_group), 0);
        for (const auto& part : pieces_of(w, counts, workers))
          for (const Piece& piece : part) {
            EXPECT_EQ(piece.inputs.begin % gemm_block, 0);
            const auto before = counts.begin() + piece.group;
            EXPECT_EQ(piece.rows.begin, sum({counts.begin(), before}));
            EXPECT_EQ(piece.rows.size(), *before);
            ASSERT_LE(piece.outputs.end, w.outputs);
            ASSERT_LE(piece.inputs.end, w.inputs);
            for (std::int64_t o = piece.outputs.begin; o < piece.outputs.end; ++o)
              for (std::int64_t i = piece.inputs.begin; i < piece.inputs.end; ++i)
                ++seen[std::size_t(piece.group * of_group + o * w.inputs + i)];
          }
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), std::ssize(seen))
            << outputs << " outputs, " << counts.size() << " groups, " << workers << " workers";
      }
}

TEST(ProductTiles, ChunksFollowOneAnotherAndAreOfLikeSize) {
  for (const std::int64_t rows : {0, 1, 31, 512, 513, 1030, 4096}) {
    std::vector<Interval> chunks;
    each_chunk({7, 7 + rows}, [&](Interval chunk) { chunks.push_back(chunk); });
    EXPECT_EQ(std::ssize(chunks), std::max<std::int64_t>(1, (rows + 511) / 512)) << rows;
    std::int64_t end = 7;
    for (const Interval& chunk : chunks) {
      EXPECT_EQ(chunk.begin, end);
      EXPECT_LE(chunk.size(), chunks[0].size());
      end = chunk.end;
    }
    EXPECT_EQ(end, 7 + rows);
    EXPECT_LE(chunks[0].size() - chunks.back().size(), gemm_block * std::ssize(chunks)) << rows;
  }
}

}  // namespace
}  // namespace pf
