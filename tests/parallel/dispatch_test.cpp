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
    weights = tensor_of(shares, {count, k}, device, rows);
    order = plan(tensor_of(choices, {count, k}, device, constant(rows)), experts);
  }

  std::int64_t count;
  Tensor x, weights;
  Plan order;
};

const Layout layouts[] = {{},
                          {.dp = 4, .ep = 4},
                          {.dp = 4, .ep = 2, .edp = 2},
                          {.dp = 4, .etp = 2, .ep = 2},
                          {.kv = 2, .dp = 2, .etp = 4},
                          {.kv = 2, .cp = 2, .dp = 2, .etp = 2, .ep = 2, .edp = 2}};

TEST(Dispatch, EachExpertGetsTheRowsOfThoseThatChoseIt) {
  for (const Layout& layout : layouts) {
    std::mutex mutex;
    std::multiset<std::pair<std::int64_t, double>> found;  // expert, token; of each rank of etp
    in_ranks(layout, [&](const Mesh& mesh) {
      const Tokens tokens(mesh);
      const Dispatched there =
          dispatch(permute(tokens.x, tokens.weights, tokens.order), tokens.order, mesh);
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
    std::multiset<std::pair<std::int64_t, double>> wanted;
    for (int rank = 0; rank < layout.ranks(); ++rank)
      for (int t = 0; t <= rank; ++t)
        for (int copy = 0; copy < layout.etp; ++copy) {
          const std::int64_t number = 100 * rank + t, other[] = {0, 2, 3};
          wanted.insert({1, double(number)});
          wanted.insert({other[number % 3], double(number)});
        }
    EXPECT_EQ(found, wanted) << text(layout);
  }
}

TEST(Dispatch, RowsComeBackInTheirOrder) {
  for (const Layout& layout : layouts)
    in_ranks(layout, [&](const Mesh& mesh) {
      const Tokens tokens(mesh);
      const Permuted sent = permute(tokens.x, tokens.weights, tokens.order);
      const Dispatched there = dispatch(sent, tokens.order, mesh);
      // Each rank of etp makes a part of the outputs.
      const Tensor part = Tensor::like(there.rows.x);
      backend(part).scale(part, there.rows.x, 1.0 / layout.etp);
      const Label partial = part.label().with(axes::etp, Spread::partial);
      const Tensor back = bring_back(part.labelled(partial), there, mesh);
      EXPECT_EQ(back.to_vector<double>(), sent.x.to_vector<double>()) << text(layout);
      EXPECT_EQ(back.label(), sent.x.label());
    });
}

TEST(Dispatch, ExpertsThatRanksCanNotShareAreAnError) {
  expect_error(
      [] {
        in_ranks({.dp = 3, .ep = 3}, [](const Mesh& mesh) {
          const Tokens tokens(mesh);
          dispatch(permute(tokens.x, tokens.weights, tokens.order), tokens.order, mesh);
        });
      },
      {"4 experts over ep = 3"});
}

}  // namespace
}  // namespace pf
