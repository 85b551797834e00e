#include "models/specialisation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/metrics.h"
#include "models/trial.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

// Of three experts, A tokens give the scores 4/6, 1/6, 1/6, B tokens 1/6, 4/6, 1/6 and C tokens
// 1/6, 1/6, 4/6. The targets of small letters do not count.
Statistics choices_of(const Mesh& mesh, const std::string& text, std::int64_t top_k,
                      double bias_of_the_last = 0) {
  Moe moe("layer", 5,
          {.hidden = 3,
           .experts = 3,
           .top_k = top_k,
           .ffn = 1,
           .bias_rate = 1,
           .capacity = {.block = 1, .factor = 0.1},
           .norm = {.width = 3, .eps = 0}},
          mesh);
  moe.visit({.parameter = [&](Parameter& w) {
    w.initialise(mesh.device(), DType::f64, 1, 1);
    if (w.name() == "layer.moe.router.bias") w.value().data<double>()[2] = bias_of_the_last;
    if (w.name() != "layer.moe.router") return;
    backend(w.value()).fill(w.value(), 0);
    // A normed token is sqrt(3) in one place.
    for (int e = 0; e < 3; ++e) w.value().data<double>()[4 * e] = std::log(4.0) / std::sqrt(3.0);
  }});
  const auto tokens = std::int64_t(text.size());
  const std::vector<std::int32_t> ids(text.size());
  std::vector<std::uint8_t> counts;
  for (const char token : text) counts.push_back(token < 'a');
  Context context;
  context.mesh = &mesh;
  context.type = DType::f64;
  context.batch =
      make_batch(mesh, {.count = 1, .ids = ids, .targets = ids, .counts = counts}, DType::f64);
  const Tensor x = Tensor::zeros({tokens, 3}, DType::f64, mesh.device(),
                                 dense(Spread::rows, Spread::rows, Spread::rows));
  for (std::int64_t t = 0; t < tokens; ++t)
    x.data<double>()[3 * t + std::toupper(text[std::size_t(t)]) - 'A'] = 1;
  const Tape::Recording pause(nullptr);
  moe.forward(x, context);
  return context.statistics;
}

// Of each text of a domain a micro-batch.
std::vector<LayerChoices> domain_of(const std::vector<std::string>& texts, std::int64_t top_k,
                                    double bias_of_the_last = 0) {
  std::vector<LayerChoices> out;
  in_ranks(1, [&](const Mesh& mesh) {
    DomainChoices domain;
    for (const std::string& text : texts)
      domain.add(choices_of(mesh, text, top_k, bias_of_the_last));
    out = domain.over_mesh(mesh, {{5}, 3});
  });
  return out;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-14) << i;
}

TEST(Specialisation, IsThatOfTokensWhoseTargetsCount) {
  const auto layers = specialisation(
      {domain_of({"AABbbc", "cABb"}, 1), domain_of({"CCbbC", "a"}, 1), domain_of({"bb"}, 1)}, 1);
  ASSERT_EQ(layers.size(), 1u);
  const Specialisation& layer = layers[0];
  EXPECT_EQ(layer.layer, 5);
  expect_near(layer.share[0], {3. / 5, 2. / 5, 0});
  expect_near(layer.share[1], {0, 0, 1});
  expect_near(layer.share[2], {0, 0, 0});
  expect_near(layer.score, {2. / 3, 2. / 3, 0});
  EXPECT_DOUBLE_EQ(layer.largest(0), 3. / 5);
  EXPECT_EQ(layer.overlap, (std::vector<std::vector<double>>{{1, 0, 0}, {0, 1, 0}, {0, 0, 0}}));
}

TEST(Specialisation, TheScoreIsASumOverWhatATokenChose) {
  // Ties go to the lower number: A chooses 0 and 1, C chooses 0 and 2.
  const auto layers = specialisation({domain_of({"AAAC"}, 2), domain_of({"CCa"}, 2)}, 2);
  expect_near(layers[0].share[0], {4. / 8, 3. / 8, 1. / 8});
  expect_near(layers[0].share[1], {2. / 4, 0, 2. / 4});
  expect_near(layers[0].score, {5. / 6, 5. / 6});
  EXPECT_EQ(layers[0].overlap[0][1], 0.5);
}

TEST(Specialisation, ABiasMovesChoicesAndIsInNoScore) {
  const auto layers = specialisation({domain_of({"AAB"}, 1, 1)}, 1);
  expect_near(layers[0].share[0], {0, 0, 1});
  expect_near(layers[0].score, {1. / 6});
}

TEST(Specialisation, OverlapIsOfTheMostChosenExperts) {
  EXPECT_EQ(overlap_of({5, 4, 3, 0}, {4, 5, 0, 9}, 1), 0);
  EXPECT_EQ(overlap_of({5, 4, 3, 0}, {4, 5, 0, 0}, 2), 1);
  EXPECT_EQ(overlap_of({5, 4, 3, 0}, {0, 5, 4, 3}, 2), 0.5);
  EXPECT_EQ(overlap_of({5, 4, 4, 4}, {5, 4, 0, 0}, 2), 1) << "ties: the lower number";
  EXPECT_EQ(overlap_of({5, 0, 0, 0}, {5, 0, 0, 0}, 2), 0.5) << "only one is chosen at all";
}

TEST(Specialisation, DomainsOfOtherLayersAreAnError) {
  expect_error([] { specialisation({{{1, {1}, 1}}, {}}, 1); }, {"specialisation", "0 and 1"});
}

// Four sequences in micro-batches of one, of which replica d evaluates every dp-th, and fills up
// where it has none left.
std::vector<LayerChoices> under(const Layout& layout) {
  Recipe recipe{.model = small_moe()};
  recipe.model.mutable_moe()->set_bias_rate(1e-3);
  recipe.model.set_heads(4);
  recipe.model.set_kv_heads(4);
  constexpr std::int64_t length = 24, count = 5;
  const Samples samples = uneven_samples(count, length, recipe.model.vocabulary());
  std::vector<LayerChoices> out;
  in_ranks(layout, [&](const Mesh& mesh) {
    SmallModel model(recipe, mesh, length);
    DomainChoices domain;
    const std::int64_t dp = mesh.size(axes::dp);
    for (std::int64_t first = 0; first < count; first += dp) {
      const std::int64_t j = first + mesh.coordinate(axes::dp);
      std::vector<std::int32_t> ids(length), targets(length);
      std::vector<std::uint8_t> counts(length, 0);
      for (std::size_t t = 0; j < count && t < std::size_t(length); ++t) {
        const std::size_t at = std::size_t(j * length) + t;
        ids[t] = samples.ids[at];
        targets[t] = samples.targets[at];
        counts[t] = samples.mask[at] > 0;
      }
      Context context;
      context.mesh = &mesh;
      context.type = DType::f64;
      context.batch = make_batch(
          mesh, {.count = 1, .ids = ids, .targets = targets, .counts = counts}, DType::f64);
      model.pipeline().evaluate(context);
      domain.add(context.statistics);
    }
    const auto found = domain.over_mesh(mesh, model.transformer().moe_layers());
    if (mesh.rank() == 0) out = found;
  });
  return out;
}

TEST(Specialisation, AnyLayoutCountsWhatOneRankCounts) {
  const std::vector<LayerChoices> want = under(Layout::make(1, 1, 1, 1, 1, 1, 4));
  ASSERT_EQ(want.size(), 2u);
  double all = 0;
  for (const double x : want[0].counts) all += x;
  EXPECT_EQ(all, 2 * uneven_samples(5, 24, 11).targets_that_count());
  struct Sizes {
    int ranks, tp, cp, ep, etp;
  };
  for (const auto& [ranks, tp, cp, ep, etp] : {Sizes{2, 2, 1, 1, 1},
                                               {2, 1, 2, 1, 1},
                                               {2, 1, 1, 2, 1},
                                               {3, 1, 1, 1, 1},
                                               {2, 2, 1, 1, 2},
                                               {4, 2, 1, 4, 1},
                                               {4, 2, 2, 2, 2},
                                               {8, 2, 2, 4, 1}}) {
    SCOPED_TRACE(testing::Message() << ranks << " ranks, tp " << tp << ", cp " << cp << ", ep "
                                    << ep << ", etp " << etp);
    const auto got = under(Layout::make(ranks, tp, cp, ep, etp, 1, 4));
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t l = 0; l < want.size(); ++l) {
      EXPECT_EQ(got[l].layer, want[l].layer);
      EXPECT_EQ(got[l].counts, want[l].counts);
      EXPECT_NEAR(got[l].scores, want[l].scores, 1e-12 * want[l].scores);
    }
  }
}

}  // namespace
}  // namespace pf
