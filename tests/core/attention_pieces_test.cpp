// What products make and read of a block of scores.
#include "core/cpu/attention_pieces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/philox.h"

namespace pf {
namespace {

using i64 = std::int64_t;

bool sees(const Band& band, i64 row, i64 column) {
  return column >= std::max(band.left, band.lower + row) &&
         column < std::min(band.right, band.upper + row);
}

// How often each element of a block is in a piece.
class Seen {
 public:
  Seen(i64 rows, i64 columns)
      : rows_(rows), columns_(columns), times_(std::size_t(rows * columns), 0) {}

  void operator()(Interval rows, Interval columns) {
    ++pieces;
    ASSERT_TRUE(0 <= rows.begin && rows.begin < rows.end && rows.end <= rows_);
    ASSERT_TRUE(0 <= columns.begin && columns.begin < columns.end && columns.end <= columns_);
    for (i64 r = rows.begin; r < rows.end; ++r)
      for (i64 c = columns.begin; c < columns.end; ++c) ++times_[std::size_t(r * columns_ + c)];
  }

  // What the band shows once, the rest once or never.
  void expect_of(const Band& band) const {
    for (i64 r = 0; r < rows_; ++r)
      for (i64 c = 0; c < columns_; ++c) {
        const int times = times_[std::size_t(r * columns_ + c)];
        ASSERT_LE(times, 1) << r << ' ' << c;
        if (sees(band, r, c)) {
          ASSERT_EQ(times, 1) << r << ' ' << c;
        }
      }
  }
  i64 size() const { return std::ranges::count(times_, 1); }

  int pieces = 0;

 private:
  i64 rows_, columns_;
  std::vector<int> times_;
};

TEST(AttentionPieces, HoldWhatAnyBandShows) {
  const Random random{3, 0, 0};
  std::uint64_t drawn = 0;
  const auto draw = [&](i64 begin, i64 end) {
    return begin + i64(random.uniform(drawn++) * double(end - begin));
  };
  for (int i = 0; i < 2000; ++i) {
    const i64 rows = draw(1, 40), columns = draw(1, 70), step = draw(1, 20);
    const Band band{draw(-20, 60), draw(0, 90), draw(-60, 60), draw(-40, 90)};
    SCOPED_TRACE(testing::Message()
                 << rows << " x " << columns << " by " << step << ": " << band.left << ' '
                 << band.right << ' ' << band.lower << ' ' << band.upper);
    Seen by_columns(rows, columns), by_rows(rows, columns);
    each_columns(band, rows, columns, step, [&](Interval r, Interval c) { by_columns(r, c); });
    each_rows(band, rows, columns, step, [&](Interval r, Interval c) { by_rows(r, c); });
    by_columns.expect_of(band);
    by_rows.expect_of(band);
  }
}

TEST(AttentionPieces, LeaveOutMostOfWhatADiagonalHides) {
  // 64 x 128, whose last 64 columns are a causal square.
  const Band causal{-1000, 1000, -1000, 65};
  Seen by_columns(64, 128), by_rows(64, 128);
  each_columns(causal, 64, 128, 16, [&](Interval r, Interval c) { by_columns(r, c); });
  each_rows(causal, 64, 128, 16, [&](Interval r, Interval c) { by_rows(r, c); });
  EXPECT_EQ(by_columns.size(), 64 * 64 + 16 * (64 + 48 + 32 + 16));
  EXPECT_EQ(by_columns.pieces, 4);  // the first is as wide as what all rows see
  EXPECT_EQ(by_rows.size(), 64 * 64 + 16 * (16 + 32 + 48 + 64));
  EXPECT_EQ(by_rows.pieces, 4);
}

TEST(AttentionPieces, AreOneWhereAllIsSeen) {
  const Band all{0, 128, -1000, 1000}, nothing{0, 128, 500, 1000};
  Seen whole(64, 128), empty(64, 128);
  each_columns(all, 64, 128, 16, [&](Interval r, Interval c) { whole(r, c); });
  EXPECT_EQ(whole.pieces, 1);
  EXPECT_EQ(whole.size(), 64 * 128);
  each_rows(all, 64, 128, 12, [&](Interval r, Interval c) { whole(r, c); });
  EXPECT_EQ(whole.pieces, 2);
  each_rows(nothing, 64, 128, 12, [&](Interval r, Interval c) { empty(r, c); });
  each_columns(nothing, 64, 128, 16, [&](Interval r, Interval c) { empty(r, c); });
  EXPECT_EQ(empty.pieces, 0);
}

}  // namespace
}  // namespace pf
