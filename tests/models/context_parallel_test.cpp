#include "models/context_parallel.h"

#include <gtest/gtest.h>

#include <set>

#include "core/ops/attention.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Seen = std::multiset<std::pair<std::int64_t, std::int64_t>>;  // query, key

Seen seen(const std::vector<Area>& areas) {
  Seen out;
  for (const Area& a : areas) {
    EXPECT_LT(a.q_begin, a.q_end);
    EXPECT_LT(a.k_begin, a.k_end);
    const bool is_below = a.kind == Area::Kind::causal || a.kind == Area::Kind::both;
    const bool is_above = a.kind == Area::Kind::inverse_causal || a.kind == Area::Kind::both;
    for (std::int64_t q = a.q_begin; q < a.q_end; ++q)
      for (std::int64_t k = a.k_begin; k < a.k_end; ++k)
        if ((!is_below || a.k_end - k >= a.q_end - q) &&
            (!is_above || k - a.k_begin >= q - a.q_begin))
          out.insert({q, k});
  }
  return out;
}

std::int64_t token_at(const std::vector<RowRange>& ranges, std::int64_t row) {
  for (const RowRange& range : ranges)
    if (row >= range.row && row < range.row + range.size()) return range.begin + row - range.row;
  return -1;
}

// Rank `rank` of cp, alone.
struct Alone {
  Alone(int rank, int cp) : communicator(rank, cp), device(make_cpu_backend(1)), mesh(make(cp)) {}
  Mesh make(int cp) {
    std::vector<int> ranks(static_cast<std::size_t>(cp));
    std::iota(ranks.begin(), ranks.end(), 0);
    return {communicator, device, {.cp = cp, .edp = cp}, ranks};
  }
  FakeCommunicator communicator;
  Device device;
  Mesh mesh;
};

// Two sequences in documents, whose tokens see their own document, a prefix fully, or a window.
std::vector<std::vector<Area>> masks(std::int64_t length) {
  const auto causal = causal_areas(2, length);
  const std::int64_t all = 2 * length, cut = length / 3;
  using Kind = Area::Kind;
  const std::vector<Area> documents{{0, cut, 0, cut, Kind::causal},
                                    {cut, length + 1, cut, length + 1, Kind::causal},
                                    {length + 1, all, length + 1, all, Kind::causal}};
  return {causal,
          documents,
          within_window(causal, 1),
          within_window(documents, 3),
          within_window(causal, length - 1),
          {{0, all, 0, all, Kind::full}},
          {{0, all, 0, all, Kind::inverse_causal}},
          {{1, length, 0, cut, Kind::full}, {cut + 1, all, cut, all - 1, Kind::both}}};
}

TEST(ContextParallel, RanksSeeTogetherWhatTheAreasSay) {
  for (const int cp : {1, 2, 3, 4})
    for (const std::int64_t length : {24, 48})
      for (const std::vector<Area>& areas : masks(length)) {
        Seen found;
        for (int rank = 0; rank < cp; ++rank) {
          const Alone alone(rank, cp);
          const auto queries = rows_of_rank(2, length, alone.mesh);
          const auto keys = rows_of_all(2, length, alone.mesh);
          for (const auto& [q, k] : seen(areas_in_rows(areas, queries, keys)))
            found.insert({token_at(queries, q), token_at(keys, k)});
        }
        EXPECT_EQ(found, seen(areas)) << "cp " << cp << ", length " << length;
      }
}

TEST(ContextParallel, EachRanksKeysAreARunOfAllRows) {
  for (const int cp : {1, 2, 3}) {
    const Alone any(0, cp);
    const auto all = rows_of_all(2, 24, any.mesh);
    const std::int64_t rows = 48 / cp;
    for (int rank = 0; rank < cp; ++rank)
      EXPECT_EQ(rows_between(all, rank * rows, (rank + 1) * rows),
                rows_of_rank(2, 24, Alone(rank, cp).mesh));
    const std::vector<RowRange> inside = rows_between(all, 1, 3);
    EXPECT_EQ(inside, (std::vector<RowRange>{{1, 3, 0}}));
  }
}

TEST(ContextParallel, OnOneRankAreasStayAsTheyAre) {
  const Alone alone(0, 1);
  for (const std::vector<Area>& areas : masks(24)) {
    const auto rows = rows_of_rank(2, 24, alone.mesh);
    EXPECT_EQ(rows, (std::vector<RowRange>{{0, 48, 0}}));
    EXPECT_EQ(areas_in_rows(areas, rows, rows).size(), areas.size());
  }
}

TEST(ContextParallel, EachRankHasTheSameWorkOfWhatIsCausal) {
  for (const int cp : {2, 3, 4}) {
    std::set<std::size_t> work;
    for (int rank = 0; rank < cp; ++rank) {
      const Alone alone(rank, cp);
      work.insert(seen(areas_in_rows(causal_areas(2, 24), rows_of_rank(2, 24, alone.mesh),
                                     rows_of_all(2, 24, alone.mesh)))
                      .size());
    }
    EXPECT_EQ(work.size(), 1u) << cp;
  }
}

TEST(ContextParallel, AllThatIsKnownOfATokenTravelsWithIt) {
  std::vector<std::int32_t> ids(16), targets(16);
  std::iota(ids.begin(), ids.end(), 100);
  std::iota(targets.begin(), targets.end(), 200);
  const std::vector<std::int64_t> starts{3, 5};
  const Alone alone(1, 2);
  const Batch batch = make_batch(
      alone.mesh, {.count = 2, .first_sample = 5, .ids = ids, .targets = targets, .starts = starts},
      DType::f64);
  const std::vector<std::int32_t> tokens{2, 3, 4, 5, 10, 11, 12, 13};
  const std::vector<std::int32_t> positions{2, 0, 1, 0, 2, 3, 4, 5};  // within documents
  ASSERT_EQ(batch.ids.size(), 8);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_EQ(batch.ids.to_vector<std::int32_t>()[i], 100 + tokens[i]);
    EXPECT_EQ(batch.targets.to_vector<std::int32_t>()[i], 200 + tokens[i]);
    EXPECT_EQ(batch.position.to_vector<std::int32_t>()[i], positions[i]);
    EXPECT_EQ(batch.token.to_vector<std::int64_t>()[i], 5 * 8 + tokens[i]);
    EXPECT_EQ(batch.sequence.to_vector<std::int32_t>()[i], tokens[i] / 8);
  }
  EXPECT_EQ(batch.mask.size(), 8);
  EXPECT_EQ(batch.present.size(), 8);
}

TEST(ContextParallel, ASequenceThatCanNotBeCutIsAnError) {
  const Alone alone(0, 3);
  expect_error([&] { rows_of_rank(1, 8, alone.mesh); }, {"sequences of 8", "cp = 3", "2 cp = 6"});
}

}  // namespace
}  // namespace pf
