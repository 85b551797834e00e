// Gradients, and weights, of which each rank has a slice.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "core/error.h"
#include "parallel/gradients.h"
#include "tests/parallel/gradient_model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;

// p5 and p6 are cut between matrices only.
Sharing among(int ranks, Divided divided = Divided::states) {
  return {ranks, [](const Parameter& p) { return p.whole().dims() == 3; }, divided};
}

constexpr Divided stages[] = {Divided::states, Divided::gradients, Divided::weights};

// Backward of `micro_batches` times what step() writes.
double run(Model& model, Gradients& gradients, const Mesh& mesh, int micro_batches = 1) {
  gradients.clear();
  for (int m = 1; m <= micro_batches; ++m)
    for (std::size_t layer = model.layers.size(); layer-- > 0;) {
      model.write<double>(mesh, layer);
      gradients.start(layer, m == micro_batches);
    }
  return gradients.finish();
}

TEST(SharedGradients, AreTheSumsWhereTheirOwnersAre) {
  for (const Layout& layout : layouts) {
    for (const int sharing : {0, 2, 3}) {
      for (const Divided divided : stages) {
        in_ranks(layout, [&](const Mesh& mesh) {
          Model model = make_model(mesh), whole = make_model(mesh);
          Gradients gradients(mesh, model.layers, among(sharing, divided));
          Gradients all(mesh, whole.layers);
          for (const int micro_batches : {1, 3}) {
            EXPECT_EQ(run(model, gradients, mesh, micro_batches),
                      run(whole, all, mesh, micro_batches));
            for (const Part& part : gradients.parts()) {
              const auto number = std::stoul(part.parameter->name().substr(1));
              EXPECT_EQ(part.gradient().to_vector<double>(),
                        part.of(whole.parameters[number]->gradient()).to_vector<double>());
              EXPECT_TRUE(part.parameter->whole().dims() < 3 ||
                          part.begin % 18 + part.end % 18 == 0);
            }
          }
        });
      }
    }
  }
}

TEST(SharedGradients, GiveEachElementOneOwnerAndBringItsValueToAll) {
  for (const Layout& layout : layouts) {
    for (const int sharing : {0, 2, 3}) {
      for (const Divided divided : stages) {
        in_ranks(layout, [&](const Mesh& mesh) {
          Model model = make_model(mesh);
          Gradients gradients(mesh, model.layers, among(sharing, divided));
          for (int run = 1; run < 3; ++run) {
            // 1 more in each step: an element of two owners, or of none, would show.
            for (const Part& part : gradients.parts()) {
              const Tensor x = part.value();
              for (std::int64_t i = 0; i < x.size(); ++i) x.data<double>()[i] += 1;
            }
            gradients.share_values();
            for (std::size_t layer = 0; layer < model.layers.size(); ++layer) {
              const Gradients::Use weights = gradients.use(layer, layer + 1);
              for (const Parameter* p : model.layers[layer].parameters)
                EXPECT_EQ(p->value().to_vector<double>(),
                          std::vector<double>(std::size_t(p->size()), run));
            }
          }
        });
      }
    }
  }
}

std::vector<double> random_values(Parameter& p) {
  backend(p.value()).normal(p.value(), {1, 2, 0}, 1, p.whole(), std::array<std::int64_t, 2>{});
  return p.value().to_vector<double>();
}

TEST(SharedGradients, KeepTheValuesThatWereThere) {
  for (const Divided divided : stages) {
    in_ranks(2, [&](const Mesh& mesh) {
      Model model;
      model.add(0, mesh, {7, 12}, dense(replicated, replicated, replicated));
      Parameter& p = *model.parameters[0];
      const auto want = random_values(p);
      const std::uint64_t version = p.version();
      Gradients gradients(mesh, model.layers, among(0, divided));
      const Gradients::Use weights = gradients.use(0, 1);
      EXPECT_EQ(p.value().to_vector<double>(), want);
      EXPECT_GT(p.version(), version);
    });
  }
}

// Bytes sent by calls of a kind.
std::int64_t sent(const Mesh& mesh, const std::string& kind) {
  std::int64_t bytes = 0;
  for (const Traffic& t : mesh.communicator().traffic())
    if (t.kind == kind) bytes += t.bytes;
  return bytes;
}

// A ring's all-reduce sends 2 (n - 1) / n of the gradients; with divided weights, which are
// gathered for forward and for backward, a step sends 1.5 times that.
TEST(SharedGradients, AndWeightsSendWhatARingWouldAndHalfAsMuchMoreIfWeightsAreDivided) {
  in_ranks(4, [](const Mesh& mesh) {
    constexpr std::int64_t piece = 64 * 64 * 4 / 4 * 3, layers = 3;
    std::int64_t before = 0;
    const auto step_sends = [&](const Sharing& sharing) {
      Model model;
      for (std::size_t layer = 0; layer < layers; ++layer)
        model.add(layer, mesh, {64, 64}, dense(replicated, replicated, replicated), DType::f32);
      Gradients gradients(mesh, model.layers, sharing);
      for (std::size_t l = 0; l < layers; ++l) const auto forward = gradients.use(l, l + 1);
      gradients.clear();
      for (std::size_t l = layers; l-- > 0;) {
        const Gradients::Use backward = gradients.use(l, l - 1);
        gradients.start(l);
      }
      gradients.finish();
      gradients.share_values();
      gradients.wait_for_values();
      const std::int64_t all = sent(mesh, "scatter_gradients") + sent(mesh, "gather_gradients") +
                               sent(mesh, "gather_weights");
      return all - std::exchange(before, all);
    };
    const std::int64_t ring = 2 * piece * layers;
    EXPECT_EQ(step_sends({}), ring);
    EXPECT_EQ(step_sends(among(0, Divided::states)), ring);
    EXPECT_EQ(step_sends(among(0, Divided::gradients)), ring);
    EXPECT_EQ(step_sends(among(0, Divided::weights)), ring * 3 / 2);
    EXPECT_EQ(sent(mesh, "gather_gradients"), piece * layers);
    EXPECT_EQ(sent(mesh, "scatter_gradients"), piece * layers * 4);
    EXPECT_EQ(sent(mesh, "gather_weights"), piece * layers * 4);
  });
}

// Eight layers of one matrix.
struct Deep {
  static constexpr std::size_t layers = 8, layer = 64 * 64 * sizeof(float), slice = layer / 4;
  Model model;
  std::vector<std::unique_ptr<Pack>> packs;

  explicit Deep(const Mesh& mesh) {
    for (std::size_t l = 0; l < layers; ++l) {
      model.add(l, mesh, {64, 64}, dense(replicated, replicated, replicated), DType::f32);
      packs.push_back(std::make_unique<Pack>("pack", std::vector{model.layers[l].parameters[0]}));
      model.layers[l].packs.push_back(packs.back().get());
    }
  }
};

TEST(DividedGradients, TakeASliceEachAndTheBucketsOfThreeLayers) {
  in_ranks(4, [](const Mesh& mesh) {
    Deep deep(mesh);
    const std::size_t values = mesh.device().memory().live;
    Gradients gradients(mesh, deep.model.layers, among(0, Divided::gradients));
    // Values have moved side by side; a few bytes are the squares'.
    EXPECT_NEAR(double(mesh.device().memory().live), double(values + Deep::layers * Deep::slice),
                64);
    for (int step = 0; step < 2; ++step) {
      const std::size_t before = mesh.device().memory().live;
      mesh.device().restart_peak();
      gradients.clear();
      for (int micro_batch = 0; micro_batch < 3; ++micro_batch)
        for (std::size_t l = Deep::layers; l-- > 0;) {
          deep.model.write<float>(mesh, l);
          gradients.start(l, micro_batch == 2);
        }
      gradients.finish();
      EXPECT_EQ(mesh.device().memory().live, before);
      // Written, and on their way: two, with what comes from the others.
      EXPECT_LE(mesh.device().memory().peak,
                before + 3 * Deep::layer + 2 * (Deep::layer - Deep::slice));
    }
  });
}

TEST(DividedWeights, TakeASliceEachAndTwoLayers) {
  in_ranks(4, [](const Mesh& mesh) {
    Deep deep(mesh);
    for (auto& p : deep.model.parameters) p->drop_value();
    const auto initialise = [&](std::size_t l) {
      deep.model.parameters[l]->initialise(mesh.device(), DType::f32, 0, 0);
    };
    const std::size_t before = mesh.device().memory().live;
    mesh.device().restart_peak();
    Gradients gradients(mesh, deep.model.layers, among(0, Divided::weights), initialise);
    const std::size_t slices = 2 * Deep::layers * Deep::slice;  // values and gradients
    const std::size_t kept = mesh.device().memory().live;
    EXPECT_NEAR(double(kept), double(before + slices), 64);
    EXPECT_LE(mesh.device().memory().peak, before + slices + Deep::layer + 64);
    mesh.device().restart_peak();
    for (std::size_t l = 0; l < Deep::layers; ++l) {
      const Gradients::Use weights = gradients.use(l, l + 1);
      EXPECT_TRUE(bool(deep.model.parameters[l]->value()));
    }
    EXPECT_EQ(mesh.device().memory().live, kept);
    EXPECT_EQ(mesh.device().memory().peak, kept + 2 * Deep::layer);
    for (const auto& p : deep.model.parameters) EXPECT_FALSE(bool(p->value()));
  });
}

TEST(DividedWeights, TakeTheirPacksAlong) {
  in_ranks(4, [](const Mesh& mesh) {
    Deep deep(mesh);
    Gradients gradients(mesh, deep.model.layers, among(0, Divided::weights));
    const std::size_t before = mesh.device().memory().live;
    for (std::size_t l = 0; l < Deep::layers; ++l) {
      EXPECT_THROW(deep.packs[l]->packed(DType::bf16), Error);
      const Gradients::Use weights = gradients.use(l, Deep::layers);
      EXPECT_TRUE(bool(deep.packs[l]->packed(DType::bf16).forward));
      EXPECT_GT(mesh.device().memory().live, before + Deep::layer);
    }
    EXPECT_EQ(mesh.device().memory().live, before);
  });
}

TEST(DividedWeights, MayBeUsedInAnyOrderWithAnyGuess) {
  in_ranks(3, [](const Mesh& mesh) {
    Model model = make_model(mesh);
    for (std::size_t number = 0; number < model.parameters.size(); ++number)
      backend(model.parameters[number]->value())
          .fill(model.parameters[number]->value(), double(number));
    Gradients gradients(mesh, model.layers, among(0, Divided::weights));
    const std::size_t before = mesh.device().memory().live;
    const std::size_t order[] = {2, 2, 0, 3, 1, 0, 1}, guess[] = {2, 1, 3, 3, 0, 0, 9};
    for (std::size_t i = 0; i < std::size(order); ++i) {
      const Gradients::Use weights = gradients.use(order[i], guess[i]);
      for (const Parameter* p : model.layers[order[i]].parameters)
        EXPECT_EQ(p->value().to_vector<double>(),
                  std::vector<double>(std::size_t(p->size()), std::stod(p->name().substr(1))));
    }
    EXPECT_EQ(mesh.device().memory().live, before);
  });
}

// As a head uses the embedding.
TEST(DividedWeights, OfOneLayerAreThereForAnotherThatUsesThem) {
  in_ranks(2, [](const Mesh& mesh) {
    Model model;
    for (std::size_t layer = 0; layer < 3; ++layer)
      model.add(layer, mesh, {7, 12}, dense(replicated, replicated, replicated));
    Parameter& tied = *model.parameters[0];
    const auto want = random_values(tied);
    Pack pack("head", {&tied});
    model.layers[2].parameters.push_back(&tied);
    model.layers[2].packs.push_back(&pack);
    Gradients gradients(mesh, model.layers, among(0, Divided::weights));
    const std::size_t before = mesh.device().memory().live;
    for (int round = 0; round < 2; ++round)
      for (const std::size_t layer : {0, 1, 2, 1, 0}) {
        const Gradients::Use weights = gradients.use(layer, layer == 2 ? 0 : 9);
        EXPECT_EQ(bool(tied.value()), layer != 1);
        if (layer == 1) continue;
        EXPECT_EQ(pack.packed(DType::f64).parts[0].to_vector<double>(), want);
      }
    EXPECT_EQ(mesh.device().memory().live, before);
    gradients.clear();
    for (const std::size_t layer : {2, 1, 0}) {
      for (Parameter* p : model.layers[layer].parameters) {
        const GradientTarget to = p->gradient_target();
        for (std::int64_t i = 0; i < p->size(); ++i)
          to.tensor.data<double>()[i] = 1 + (to.adds ? to.tensor.data<double>()[i] : 0);
      }
      gradients.start(layer);
    }
    EXPECT_DOUBLE_EQ(gradients.finish(), std::sqrt(84.0 * (4 * 4 + 2 * 2 * 2)));
  });
}

TEST(DividedWeights, InUseCannotChange) {
  in_ranks(2, [](const Mesh& mesh) {
    Model model = make_model(mesh);
    Gradients gradients(mesh, model.layers, among(0, Divided::weights));
    const Gradients::Use weights = gradients.use(1, 2);
    EXPECT_THROW(gradients.share_values(), Error);
  });
}

}  // namespace
}  // namespace pf
