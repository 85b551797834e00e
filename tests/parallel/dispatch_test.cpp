#include "parallel/dispatch.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

constexpr std::int64_t experts = 4, k = 2;
const Label rows = dense(Spread::rows, Spread::rows, Spread::rows);

// Rank r holds r + 1 tokens; all choose expert 1, and the others in turn.
struct Tokens {
  explicit Tokens(const Mesh& mesh) : count(mesh.rank() + 1) {
    std::vector<double> numbers, shares;
    std::vector<std::int32_t> choices;
    for (std::int64_t t = 0; t < count; ++t) {
      const std::int64_t number = 100 * mesh.rank() + t;
      const std::int32_t other[] = {0, 2, 3};
      numbers.push_back(double(number));
      choices.push_back(1);
      choices.push_back(other[number % 3]);
      if (choices[std::size_t(2 * t + 1)] == 0)
        std::swap(choices[std::size_t(2 * t)], choices.back());
      for (int j = 0; j < k; ++j)
        shares.push_back(double(number) + 0.25 * choices[std::size_t(2 * t + j)]);
    }
    Device& device = mesh.device();
    x = tensor_of(numbers, {count, 1}, device, rows);
    chosen = {tensor_of(choices, {count, k}, device, constant(rows)),
              tensor_of(shares, {count, k}, device, rows), experts};
  }

  std::int64_t count;
  Tensor x;
  Choices chosen;
};

Dispatched dispatched(const Tensor& x, const Choices& chosen, Dispatcher by, const Mesh& mesh) {
  return receive(send(x, chosen, by, mesh), mesh);
}

// As experts do that give back a part of their rows.
Tensor brought_back(const Dispatched& there, double share, const Mesh& mesh) {
  const Tensor part = Tensor::like(there.rows.x);
  backend(part).scale(part, there.rows.x, share);
  const Label partial = part.label().with(axes::etp, Spread::partial);
  return bring_back(part.labelled(partial), there, mesh);
}

constexpr Dispatcher dispatchers[] = {Dispatcher::all_to_all, Dispatcher::all_gather};

const Layout layouts[] = {{},
                          {.dp = 4, .ep = 4},
                          {.dp = 4, .ep = 2, .edp = 2},
                          {.dp = 4, .etp = 2, .ep = 2},
                          {.kv = 2, .dp = 2, .etp = 4},
                          {.kv = 2, .cp = 2, .dp = 2, .etp = 2, .ep = 2, .edp = 2}};

using Found = std::multiset<std::pair<std::int64_t, double>>;  // expert, token

Found rows_of_experts(const Layout& layout, Dispatcher by) {
  std::mutex mutex;
  Found found;  // of each rank of etp
  in_ranks(layout, [&](const Mesh& mesh) {
    const Tokens tokens(mesh);
    const Dispatched there = dispatched(tokens.x, tokens.chosen, by, mesh);
    const std::int64_t local = experts / layout.ep;
    ASSERT_EQ(std::int64_t(there.rows.counts.size()), local);
    const auto x = there.rows.x.to_vector<double>(), w = there.rows.weights.to_vector<double>();
    const std::lock_guard lock(mutex);
    std::size_t row = 0;
    for (std::int64_t e = 0; e < local; ++e)
      for (std::int64_t i = 0; i < there.rows.counts[std::size_t(e)]; ++i, ++row) {
        const std::int64_t expert = mesh.coordinate(axes::ep) * local + e;
        EXPECT_EQ(w[row], x[row] + 0.25 * double(expert));
        found.insert({expert, x[row]});
      }
    EXPECT_EQ(row, x.size());
  });
  return found;
}

TEST(Dispatch, EachExpertGetsTheRowsOfThoseThatChoseIt) {
  for (const Layout& layout : layouts) {
    Found wanted;
    for (int rank = 0; rank < layout.ranks(); ++rank)
      for (int t = 0; t <= rank; ++t)
        for (int copy = 0; copy < layout.etp; ++copy) {
          const std::int64_t number = 100 * rank + t, other[] = {0, 2, 3};
          wanted.insert({1, double(number)});
          wanted.insert({other[number % 3], double(number)});
        }
    for (const Dispatcher by : dispatchers)
      EXPECT_EQ(rows_of_experts(layout, by), wanted) << text(layout) << ' ' << int(by);
  }
}

TEST(Dispatch, SumsComeBackToTheirTokens) {
  for (const Layout& layout : layouts)
    for (const Dispatcher by : dispatchers)
      in_ranks(layout, [&](const Mesh& mesh) {
        const Tokens tokens(mesh);
        const Dispatched there = dispatched(tokens.x, tokens.chosen, by, mesh);
        const Tensor back = brought_back(there, 1.0 / layout.etp, mesh);
        auto wanted = tokens.x.to_vector<double>();
        for (double& number : wanted) number *= k;
        EXPECT_EQ(back.to_vector<double>(), wanted) << text(layout) << ' ' << int(by);
        EXPECT_EQ(back.label(), tokens.x.label());
      });
}

// Blocks of four tokens, that all choose expert 1 of two; it takes two of each.
TEST(Dispatch, RanksDropTheChoicesOfTheirOwnBlocks) {
  for (const Dispatcher by : dispatchers)
    for (const bool pads : {false, true})
      in_ranks({.dp = 2, .ep = 2}, [&](const Mesh& mesh) {
        const double first = 4 * mesh.rank();
        Device& device = mesh.device();
        const Tensor x =
            tensor_of<double>({first + 1, first + 2, first + 3, first + 4}, {4, 1}, device, rows);
        const Choices chosen{tensor_of<std::int32_t>({1, 1, 1, 1}, {4, 1}, device, constant(rows)),
                             tensor_of<double>({.1, .4, .2, .3}, {4, 1}, device, rows),
                             2,
                             {.block = 4, .factor = 1, .pads = pads}};
        const Dispatched there = dispatched(x, chosen, by, mesh);
        if (mesh.rank() == 1)
          EXPECT_EQ(there.rows.x.to_vector<double>(), (std::vector<double>{2, 4, 6, 8}));
        else
          EXPECT_EQ(there.rows.x.to_vector<double>(), std::vector<double>(pads ? 4 : 0));
        EXPECT_EQ(brought_back(there, 1, mesh).to_vector<double>(),
                  (std::vector<double>{0, first + 2, 0, first + 4}));
      });
}

// Of rank 0 of ranks with 8 tokens, whose two choices are spread evenly.
std::int64_t bytes_sent(Dispatcher by, const Layout& layout, std::int64_t width) {
  std::int64_t bytes = 0;
  in_ranks(layout, [&](const Mesh& mesh) {
    std::vector<std::int32_t> choices;
    for (std::int32_t t = 0; t < 8; ++t) {
      choices.push_back(2 * (t % 2));
      choices.push_back(2 * (t % 2) + 1);
    }
    Device& device = mesh.device();
    const Choices chosen{tensor_of(choices, {8, 2}, device, constant(rows)),
                         random_tensor({8, 2}, DType::f64, device, 1, rows), experts};
    brought_back(
        dispatched(random_tensor({8, width}, DType::f64, device, 2, rows), chosen, by, mesh), 1,
        mesh);
    for (const Traffic& t : mesh.communicator().traffic())
      if (mesh.rank() == 0) bytes += t.bytes;
  });
  return bytes;
}

// The numbers that parallel/dispatch.h names; the rest is less than a hundredth.
TEST(Dispatch, AnExchangeMovesWhatIsSaid) {
  constexpr std::int64_t width = 2048;
  const auto expect = [](Dispatcher by, const Layout& layout, double rows_each_way) {
    const double wanted = 2 * rows_each_way * double(width) * sizeof(double);
    EXPECT_NEAR(double(bytes_sent(by, layout, width)), wanted, wanted / 100)
        << text(layout) << ' ' << int(by);
  };
  expect(Dispatcher::all_to_all, {.dp = 4, .ep = 4}, 2 * 8 * 3 / 4.0);
  expect(Dispatcher::all_gather, {.dp = 4, .ep = 4}, 3 * 8);
  expect(Dispatcher::all_to_all, {.dp = 4, .etp = 2, .ep = 2}, 2 * 8 * 3 / 2.0);
  expect(Dispatcher::all_gather, {.dp = 4, .etp = 2, .ep = 2}, 3 * 8);
}

TEST(Dispatch, ExpertsThatRanksCanNotShareAreAnError) {
  for (const Dispatcher by : dispatchers)
    expect_error(
        [&] {
          in_ranks({.dp = 3, .ep = 3}, [&](const Mesh& mesh) {
            const Tokens tokens(mesh);
            dispatched(tokens.x, tokens.chosen, by, mesh);
          });
        },
        {"4 experts over ep = 3"});
}

}  // namespace
}  // namespace pf
