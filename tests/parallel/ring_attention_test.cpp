// A ring computes what attention does with all keys at hand.
#include "parallel/ring_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/ops/attention.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Areas = std::vector<Area>;
using Values = std::vector<double>;
using Kind = Area::Kind;

constexpr std::int64_t rows = 10;  // of each rank
constexpr AttentionShape shape{4, 2, 6, 0.7, 5};

// What the queries of one rank see of the keys of another. Of 0 its own keys alone, of the last
// rank everything but its own; its rows 7 to 9 see nothing at all.
Areas areas_between(int ranks, int query, int key) {
  if (query == 0) return key == 0 ? Areas{{0, rows, 0, rows, Kind::causal}} : Areas{};
  if (query == ranks - 1)
    return key == query ? Areas{} : Areas{{0, 4, 0, 7, Kind::full}, {4, 7, 1, 9, Kind::both}};
  if (key == query) return {{0, 5, 0, 5, Kind::causal}, {5, rows, 0, rows, Kind::both}};
  return {{key, rows, 0, rows - key, Kind::inverse_causal}};
}

Areas all_areas(int ranks) {
  Areas all;
  for (int query = 0; query < ranks; ++query)
    for (int key = 0; key < ranks; ++key)
      for (const Area& a : areas_between(ranks, query, key))
        all.push_back({a.q_begin + query * rows, a.q_end + query * rows, a.k_begin + key * rows,
                       a.k_end + key * rows, a.kind});
  return all;
}

// Of the queries of a rank and its neighbours, by neighbourhood of the keys.
std::vector<Areas> areas_of_rank(int ranks, int rank, int neighbours) {
  std::vector<Areas> out(std::size_t(ranks / neighbours));
  for (int key = 0; key < ranks; ++key)
    for (int i = 0; i < neighbours; ++i) {
      const std::int64_t q = i * rows, k = key % neighbours * rows;
      for (const Area& a : areas_between(ranks, rank / neighbours * neighbours + i, key))
        out[std::size_t(key / neighbours)].push_back(
            {a.q_begin + q, a.q_end + q, a.k_begin + k, a.k_end + k, a.kind});
    }
  return out;
}

// Of rank `rank`'s rows, or of all where it is -1: the same numbers in every type.
Tensor operand(std::int64_t columns, std::uint64_t seed, DType type, Device& device, int ranks,
               int rank, const Label& label) {
  const Tensor all = random_tensor({rows * ranks, columns}, DType::bf16, device, seed);
  const Tensor x = rank < 0 ? all : all.rows(rank * rows, (rank + 1) * rows);
  const Tensor y = Tensor::empty(x.shape(), type, device, label);
  backend(y).copy(y, x);
  return y;
}

using Run = std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v)>;

// y, dq, dk, dv.
std::vector<Values> results(const Run& run, DType type, Device& device, int ranks, int rank,
                            const Label& label = {}) {
  const auto make = [&](std::int64_t columns, std::uint64_t seed) {
    return operand(columns, seed, type, device, ranks, rank, label);
  };
  Tape tape;
  const Tensor q = tape.watch(make(24, 1)), k = tape.watch(make(12, 2)),
               v = tape.watch(make(10, 3));
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = run(q, k, v);
  }
  const Tensor ys[] = {y}, dys[] = {make(20, 4).labelled(gradient_of(y.label()))};
  tape.backward(ys, dys);
  std::vector<Values> out{elements(y)};
  for (const Tensor& x : {q, k, v}) out.push_back(elements(tape.gradient(x)));
  return out;
}

std::vector<Values> with_all_keys(int ranks) {
  Device device(make_cpu_backend(1));
  const auto run = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    return attention(q, k, v, all_areas(ranks), shape);
  };
  return results(run, DType::f64, device, ranks, -1);
}

const Label cut = dense(Spread::replicated, Spread::rows, Spread::rows);

Tensor ring_of(const Mesh& mesh, const Tensor& q, const Tensor& k, const Tensor& v,
               int neighbours = 1) {
  return ring_attention(q, k, v,
                        areas_of_rank(mesh.size(axes::cp), mesh.coordinate(axes::cp), neighbours),
                        shape, mesh, axes::cp, neighbours);
}

void expect_whole(int ranks, DType type, double near, int neighbours = 1) {
  const std::vector<Values> want = with_all_keys(ranks);
  in_ranks({.cp = ranks, .edp = ranks}, [&](const Mesh& mesh) {
    const auto run = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
      return ring_of(mesh, q, k, v, neighbours);
    };
    const auto found = results(run, type, mesh.device(), ranks, mesh.rank(), cut);
    for (std::size_t i = 0; i < want.size(); ++i) {
      double largest = 0;
      for (const double value : want[i]) largest = std::max(largest, std::abs(value));
      const std::size_t begin = found[i].size() * std::size_t(mesh.rank());
      for (std::size_t e = 0; e < found[i].size(); ++e)
        ASSERT_LE(std::abs(found[i][e] - want[i][begin + e]), near * largest)
            << "rank " << mesh.rank() << " of " << ranks << ", tensor " << i << ", element " << e;
    }
  });
}

TEST(RingAttention, EqualsAttentionWithAllKeys) {
  for (const int ranks : {1, 2, 3, 4, 5}) expect_whole(ranks, DType::f64, 1e-14);
}

TEST(RingAttention, OfNeighboursThatDivideHeadsEqualsAttentionWithAllKeys) {
  for (const int ranks : {2, 4, 6}) expect_whole(ranks, DType::f64, 1e-14, 2);
  expect_whole(4, DType::bf16, 0x1p-7, 2);
}

// Of n ranks u neighbours: (u - 1) / u of a rank's q, k, v and y for heads, and n / u - 1 times
// what a rank holds of all neighbours' keys and values of its heads.
TEST(RingAttention, OfNeighboursSendsTheSumOfBothLevels) {
  in_ranks({.cp = 4, .edp = 4}, [](const Mesh& mesh) {
    const auto make = [&](std::int64_t columns) {
      return random_tensor({rows, columns}, DType::f64, mesh.device(), 1, cut);
    };
    ring_of(mesh, make(24), make(12), make(10), 2);
    EXPECT_EQ(
        mesh.communicator().traffic(),
        (std::vector<Traffic>{{"ring_attention_heads", "cp", 4, rows * (24 + 12 + 10 + 20) / 2 * 8},
                              {"ring_attention", "cp", 2, rows * (12 + 10) * 8}}));
  });
}

TEST(RingAttention, AccumulatesWhatIsRoundedOnce) {
  for (const int ranks : {2, 4}) {
    expect_whole(ranks, DType::f32, 1e-6);
    expect_whole(ranks, DType::bf16, 0x1p-7);
  }
}

TEST(RingAttention, RowsThatSeeNothingAreZeros) {
  in_ranks({.cp = 3, .edp = 3}, [](const Mesh& mesh) {
    const auto make = [&](std::int64_t columns) {
      return random_tensor({rows, columns}, DType::f32, mesh.device(), 1, cut);
    };
    const Tensor y = ring_of(mesh, make(24), make(12), make(10));
    const Values last = elements(y.rows(7, rows));
    const auto is_zero = [](double value) { return value == 0; };
    EXPECT_EQ(std::ranges::all_of(last, is_zero), mesh.rank() == 2);
  });
}

// Forward n - 1 times what a rank holds, (n - 1) / n of all keys and values; backward that and as
// many gradients.
TEST(RingAttention, SendsWhatEachRankHoldsToAllOthers) {
  for (const int ranks : {2, 3, 4})
    in_ranks({.cp = ranks, .edp = ranks}, [&](const Mesh& mesh) {
      const auto run = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
        Tensor y = ring_of(mesh, q, k, v);
        const std::int64_t times = ranks - 1, all = rows * ranks * (12 + 10);
        const Traffic want{"ring_attention", "cp", 2 * times, all * times / ranks * 2};
        EXPECT_EQ(mesh.communicator().traffic(), std::vector<Traffic>{want});
        return y;
      };
      results(run, DType::bf16, mesh.device(), ranks, mesh.rank(), cut);
      const std::vector<Traffic>& traffic = mesh.communicator().traffic();
      const std::int64_t times = ranks - 1, elements = times * rows * 22;
      ASSERT_EQ(traffic.size(), 2u);
      EXPECT_EQ(traffic[0], (Traffic{"ring_attention", "cp", 4 * times, 2 * elements * 2}));
      EXPECT_EQ(traffic[1], (Traffic{"ring_attention_backward", "cp", 2 * times, elements * 4}));
    });
}

TEST(RingAttention, GivesTheSameBitsEveryTime) {
  in_ranks({.cp = 4, .edp = 4}, [](const Mesh& mesh) {
    const auto run = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
      return ring_of(mesh, q, k, v);
    };
    const auto first = results(run, DType::f32, mesh.device(), 4, mesh.rank(), cut);
    for (int again = 0; again < 3; ++again)
      EXPECT_EQ(results(run, DType::f32, mesh.device(), 4, mesh.rank(), cut), first);
  });
}

TEST(RingAttention, WithWrongOperandsIsAnErrorThatNamesThem) {
  const auto fails = [](const Label& label, std::size_t parts, std::int64_t last,
                        std::initializer_list<const char*> says) {
    in_ranks({.cp = 2, .edp = 2}, [&](const Mesh& mesh) {
      const auto make = [&](std::int64_t columns) {
        return random_tensor({rows, columns}, DType::f64, mesh.device(), 1, label);
      };
      const std::vector<Areas> areas(parts, Areas{{0, rows, 0, last, Kind::full}});
      expect_error(
          [&] { ring_attention(make(24), make(12), make(10), areas, shape, mesh, axes::cp); },
          says);
    });
  };
  fails(cut, 3, rows, {"ring_attention", "areas for 3 places", "cp has 2"});
  fails(cut, 2, rows + 1, {"an area of queries", "keys [0, 11)"});
  fails(dense(Spread::replicated, Spread::replicated, Spread::rows), 2, rows,
        {"ring_attention", "wants rows on cp", "replicated"});
}

}  // namespace
}  // namespace pf
