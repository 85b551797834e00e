// Documents in one sequence that do not see each other, and targets that do not count.
#include <gtest/gtest.h>

#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

constexpr std::int64_t length = 12;
const std::vector<std::int64_t> starts{5, 9};  // documents of 5, 4 and 3 tokens

// Random ids; a document's last target, which would be the next one's first token, does not count.
struct Packed {
  std::vector<std::int32_t> ids, targets;
  std::vector<std::uint8_t> counts = std::vector<std::uint8_t>(length, 1);

  Packed() {
    const Random random{7, 99, 0};
    for (std::uint64_t t = 0; t < length; ++t) {
      ids.push_back(std::int32_t(random.words(t)[0] % 11));
      targets.push_back(std::int32_t(random.words(t)[1] % 11));
    }
    for (const std::size_t end : {5, 9, 12}) counts[end - 1] = 0;
  }
  Sequences rows(std::int64_t begin, std::int64_t end) const {
    const auto part = [&](const auto& all) {
      return std::span(all).subspan(std::size_t(begin), std::size_t(end - begin));
    };
    return {.count = 1, .ids = part(ids), .targets = part(targets), .counts = part(counts)};
  }
};

struct Result {
  double loss = 0;
  std::map<std::string, Numbers> gradients;
};

// Forward and backward over each of the micro-batches.
Result run(const config::Model& model, const std::vector<Sequences>& micro_batches) {
  Result result;
  in_ranks(1, [&](const Mesh& mesh) {
    SmallModel small({.model = model}, mesh, length);
    Stage stage(small.transformer().layers(), small.gradients());
    Balance balance(mesh, 1);
    small.gradients().clear();
    for (std::size_t m = 0; m < micro_batches.size(); ++m) {
      Flight flight;
      Context& context = flight.context;
      context.mesh = &mesh;
      context.type = DType::f64;
      context.batch = make_batch(mesh, micro_batches[m], DType::f64);
      context.micro_batch = std::int64_t(m);
      context.targets = 9;
      context.tokens = length;
      context.is_training = true;
      context.balance = &balance;
      const LayerRange all{0, small.transformer().layers().size()};
      stage.forward(flight, all, {});
      balance.bind(context.micro_batch);
      stage.backward(flight, all, {},
                     m + 1 == micro_batches.size() ? Stage::Weights::last : Stage::Weights::more);
      result.loss += loss_over_mesh(mesh, context.statistics);
    }
    small.gradients().finish();
    small.transformer().visit(
        {.parameter = [&](Parameter& w) { result.gradients[w.name()] = elements(w.gradient()); }});
  });
  return result;
}

config::Model without_balance() {
  config::Model model = small_moe();
  model.mutable_moe()->mutable_balance()->set_weight(0);
  model.mutable_moe()->set_z_loss(0);
  return model;
}

TEST(Documents, ThatDoNotSeeEachOtherAreAsIfEachWereAlone) {
  config::Model windowed = without_balance(), learned = without_balance();
  windowed.set_window(3);
  learned.set_position(config::Model::learned);
  learned.set_max_positions(length);
  const Packed packed;
  for (const config::Model& model : {without_balance(), windowed, learned}) {
    Sequences together = packed.rows(0, length);
    together.starts = starts;
    const Result got = run(model, {together});
    const Result want = run(model, {packed.rows(0, 5), packed.rows(5, 9), packed.rows(9, 12)});
    EXPECT_NEAR(got.loss, want.loss, 1e-12);
    for (const auto& [name, gradient] : want.gradients)
      EXPECT_LT(distance(gradient, got.gradients.at(name), 1), 1e-10) << name;
    EXPECT_GT(std::abs(run(model, {packed.rows(0, length)}).loss - want.loss), 1e-3);
  }
}

TEST(Documents, BeginWhereSequencesDoAndWhereTheyAreSaidTo) {
  in_ranks(1, [](const Mesh& mesh) {
    const std::vector<std::int32_t> ids(8, 0);
    const std::vector<std::int64_t> begins{2, 4, 5};
    const Batch batch =
        make_batch(mesh, {.count = 2, .ids = ids, .targets = ids, .starts = begins}, DType::f32);
    EXPECT_EQ(batch.position.to_vector<std::int32_t>(),
              (std::vector<std::int32_t>{0, 1, 0, 1, 0, 0, 1, 2}));
    std::vector<std::int64_t> ends;
    for (const Area& area : batch.areas) ends.push_back(area.k_end);
    EXPECT_EQ(ends, (std::vector<std::int64_t>{2, 4, 5, 8}));
    for (const std::vector<std::int64_t>& wrong : {std::vector<std::int64_t>{5, 2}, {-1}, {8}})
      expect_error(
          [&] {
            make_batch(mesh, {.count = 2, .ids = ids, .targets = ids, .starts = wrong}, DType::f32);
          },
          {"documents begin", "8"});
  });
}

TEST(Documents, TargetsThatDoNotCountLeaveTheAuxiliaryLossesAsTheyAre) {
  in_ranks(1, [](const Mesh& mesh) {
    const Packed packed;
    const auto statistics = [&](std::span<const std::uint8_t> counts) {
      SmallModel small({}, mesh, length);
      Stage stage(small.transformer().layers(), small.gradients());
      Flight flight;
      flight.context.mesh = &mesh;
      flight.context.type = DType::f64;
      Sequences sampled = packed.rows(0, length);
      sampled.counts = counts;
      flight.context.batch = make_batch(mesh, sampled, DType::f64);
      flight.context.tokens = length;
      flight.context.is_training = true;
      stage.forward(flight, {0, small.transformer().layers().size()}, {});
      const Statistics all[] = {flight.context.statistics};
      return over_mesh(mesh, small.transformer().moe_layers(), all, 0);
    };
    const std::vector<std::uint8_t> first{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    std::vector<std::uint8_t> others(length, 1);
    others[0] = 0;
    const StepStatistics all = statistics({}), one = statistics(first), rest = statistics(others);
    EXPECT_EQ(one.balance_loss, all.balance_loss);
    EXPECT_EQ(one.z_loss, all.z_loss);
    EXPECT_NEAR(one.loss + rest.loss, all.loss, 1e-12);
    EXPECT_GT(rest.loss, 0);
  });
}

}  // namespace
}  // namespace pf
