#include "parallel/gradients.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/error.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;

// What one rank adds to element i of the gradient of parameter `number`: small integers, so that
// sums are exact in any order.
double share(int rank, int number, std::int64_t i) {
  return double((7 * i + 11 * number + 5 * rank * rank + rank) % 13) - 6;
}

// A few parameters in layers, as one rank holds them.
struct Model {
  std::vector<std::unique_ptr<Parameter>> parameters;
  std::vector<LayerWeights> layers;

  void add(std::size_t layer, const Mesh& mesh, const Shape& whole, const Label& label,
           DType type = DType::f64) {
    const std::string name = "p" + std::to_string(parameters.size());
    const Block block = mesh.place(name, whole, label);
    parameters.push_back(std::make_unique<Parameter>(name, whole, block, label, Init::zeros));
    parameters.back()->initialise(mesh.device(), type, 0, 0);
    layers.resize(std::max(layers.size(), layer + 1));
    layers[layer].parameters.push_back(parameters.back().get());
  }

  // As backward would; `adds` more than one micro-batch's worth.
  template <class T>
  void write(const Mesh& mesh, std::size_t layer, int adds = 1) {
    for (std::size_t number = 0; number < parameters.size(); ++number) {
      Parameter* p = parameters[number].get();
      if (std::ranges::count(layers[layer].parameters, p) == 0) continue;
      for (int k = 0; k < adds; ++k) {
        const GradientTarget target = p->gradient_target();
        T* to = target.tensor.data<T>();
        for (std::int64_t i = 0; i < p->size(); ++i)
          to[i] = T(share(mesh.rank(), int(number), i)) + (target.adds ? to[i] : T(0));
      }
    }
  }
};

// Every way to hold a parameter, in odd sizes.
Model make_model(const Mesh& mesh, DType type = DType::f64) {
  Model model;
  const Label everywhere = dense(replicated, replicated, replicated);
  model.add(0, mesh, {7, 12}, everywhere, type);
  model.add(0, mesh, {12}, everywhere, type);
  model.add(1, mesh, {12, 5}, dense(rows, replicated, replicated), type);
  model.add(1, mesh, {5, 12}, dense(columns, replicated, replicated), type);
  model.add(1, mesh, {5}, everywhere, type);
  model.add(2, mesh, {12, 3, 6}, expert(replicated, experts, replicated), type);
  model.add(2, mesh, {12, 6, 3}, expert(replicated, experts, replicated), type);
  model.add(2, mesh, {9}, dense(invariant, replicated, replicated), type);
  model.add(3, mesh, {3, 3}, everywhere, type);
  return model;
}

const Layout layouts[] = {
    {},
    {.dp = 2, .edp = 2},
    {.dp = 3, .edp = 3},
    {.dp = 4, .edp = 4},
    {.kv = 2, .cp = 1, .dp = 2, .etp = 1, .ep = 2, .edp = 2},
    {.share = 2, .cp = 2, .dp = 1, .etp = 2, .ep = 1, .edp = 2},
    {.kv = 2, .cp = 2, .dp = 2, .etp = 1, .ep = 4, .edp = 2},
};

template <class T>
std::vector<T> step(Model& model, Gradients& gradients, const Mesh& mesh, double* norm = nullptr,
                    int adds = 1) {
  gradients.clear();
  for (std::size_t layer = model.layers.size(); layer-- > 0;) {
    model.write<T>(mesh, layer, adds);
    gradients.start(layer);
  }
  const double found = gradients.finish();
  if (norm != nullptr) *norm = found;
  std::vector<T> out;
  for (const auto& p : model.parameters) {
    const auto values = p->gradient().to_vector<T>();
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

TEST(Gradients, AreSumsOverTheRanksOnWhichTheParameterIsReplicated) {
  for (const Layout& layout : layouts) {
    in_ranks(layout, [](const Mesh& mesh) {
      Model model = make_model(mesh);
      Gradients gradients(mesh, model.layers);
      const std::vector<double> found = step<double>(model, gradients, mesh);
      std::vector<double> want;
      for (std::size_t number = 0; number < model.parameters.size(); ++number) {
        const Parameter& p = *model.parameters[number];
        for (std::int64_t i = 0; i < p.size(); ++i) {
          want.push_back(0);
          for (int r : mesh.group(summed_over(p.label()))) want.back() += share(r, int(number), i);
        }
      }
      EXPECT_EQ(found, want);
    });
  }
}

TEST(Gradients, HaveANormThatCountsEveryLogicalElementOnce) {
  for (const Layout& layout : layouts) {
    std::vector<double> squares(std::size_t(layout.ranks())), norms = squares;
    in_ranks(layout, [&](const Mesh& mesh) {
      const auto self = std::size_t(mesh.rank());
      Model model = make_model(mesh);
      Gradients gradients(mesh, model.layers);
      step<double>(model, gradients, mesh, &norms[self]);
      for (const auto& p : model.parameters) {
        bool is_first = true;  // of those that hold the same elements
        for (const Axis a : axes_of(p->label().view))
          if (!is_varying(p->label()[a])) is_first = is_first && mesh.coordinate({a}) == 0;
        for (const double g : p->gradient().to_vector<double>()) squares[self] += is_first * g * g;
      }
    });
    double want = 0;
    for (const double square : squares) want += square;
    for (const double norm : norms) EXPECT_EQ(norm, std::sqrt(want));
  }
}

TEST(Gradients, HaveTheSameBitsOnEveryRankAndInEveryRun) {
  std::vector<std::vector<float>> found(4);
  std::vector<double> norms(4);
  in_ranks(4, [&](const Mesh& mesh) {
    Model model;
    for (std::size_t layer = 0; layer < 5; ++layer)
      model.add(layer, mesh, {31, 77}, dense(replicated, replicated, replicated), DType::f32);
    Gradients gradients(mesh, model.layers);
    const auto self = std::size_t(mesh.rank());
    for (int run = 0; run < 5; ++run) {
      gradients.clear();
      for (std::size_t layer = 5; layer-- > 0;) {
        const Tensor g = model.parameters[layer]->gradient_target().tensor;
        for (std::int64_t i = 0; i < g.size(); ++i)
          g.data<float>()[i] = 1 / float(1 + i % 97 + 3 * mesh.rank() + std::int64_t(layer));
        gradients.start(layer);
      }
      const double norm = gradients.finish();
      std::vector<float> now;
      for (const auto& p : model.parameters) {
        const auto values = p->gradient().to_vector<float>();
        now.insert(now.end(), values.begin(), values.end());
      }
      if (run == 0) {
        found[self] = now;
        norms[self] = norm;
      }
      EXPECT_EQ(now, found[self]);
      EXPECT_EQ(norm, norms[self]);
    }
  });
  for (std::size_t r = 1; r < 4; ++r) {
    EXPECT_EQ(found[r], found[0]);
    EXPECT_EQ(norms[r], norms[0]);
  }
}

TEST(Gradients, OfAParameterThatARankNeverUsedAreZerosFromThere) {
  in_ranks(3, [](const Mesh& mesh) {
    Model model;
    const Label label = dense(replicated, replicated, replicated);
    model.add(0, mesh, {5}, label);
    model.add(0, mesh, {3}, label);
    Gradients gradients(mesh, model.layers);
    for (int run = 0; run < 2; ++run) {  // in the second, the place holds the last step's sums
      gradients.clear();
      if (mesh.rank() == 1) {
        const Tensor g = model.parameters[0]->gradient_target().tensor;
        std::fill_n(g.data<double>(), 5, 2.0);
      }
      gradients.start(0);
      EXPECT_EQ(gradients.finish(), std::sqrt(20));
      EXPECT_EQ(model.parameters[0]->gradient().to_vector<double>(), std::vector<double>(5, 2));
      EXPECT_EQ(model.parameters[1]->gradient().to_vector<double>(), std::vector<double>(3, 0));
    }
  });
}

TEST(Gradients, OfSeveralMicroBatchesAddUp) {
  in_ranks(2, [](const Mesh& mesh) {
    Model model = make_model(mesh);
    Gradients gradients(mesh, model.layers);
    double once = 0, thrice = 0;
    const auto one = step<double>(model, gradients, mesh, &once);
    const auto three = step<double>(model, gradients, mesh, &thrice, 3);
    for (std::size_t i = 0; i < one.size(); ++i) EXPECT_EQ(three[i], 3 * one[i]);
    EXPECT_NEAR(thrice, 3 * once, 1e-12 * thrice);
  });
}

TEST(Gradients, ThatAreNotFiniteMakeANormThatIsNotOnEveryRank) {
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    in_ranks(3, [&](const Mesh& mesh) {
      Model model = make_model(mesh);
      Gradients gradients(mesh, model.layers);
      gradients.clear();
      for (std::size_t layer = model.layers.size(); layer-- > 0;) {
        model.write<double>(mesh, layer);
        if (layer == 2 && mesh.rank() == 1)
          model.layers[2].parameters[1]->gradient().data<double>()[5] = value;
        gradients.start(layer);
      }
      EXPECT_FALSE(std::isfinite(gradients.finish()));
      EXPECT_TRUE(std::isfinite(step<double>(model, gradients, mesh)[0]));
    });
  }
}

TEST(Gradients, HavePlacesThatKernelsLike) {
  in_ranks(2, [](const Mesh& mesh) {
    Model model = make_model(mesh, DType::bf16);
    const Gradients gradients(mesh, model.layers);
    for (const auto& p : model.parameters) {
      EXPECT_EQ(p->gradient().dtype(), DType::f32);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p->gradient().raw()) % 64, 0u);
    }
  });
}

TEST(Gradients, TakeMemoryForTwoLayersOnTheirWay) {
  in_ranks(4, [](const Mesh& mesh) {
    Model model;
    for (std::size_t layer = 0; layer < 8; ++layer)
      model.add(layer, mesh, {64, 64}, dense(replicated, replicated, replicated), DType::f32);
    Gradients gradients(mesh, model.layers);
    step<float>(model, gradients, mesh);
    const std::size_t before = mesh.device().memory().live;
    mesh.device().restart_peak();
    step<float>(model, gradients, mesh);
    EXPECT_EQ(mesh.device().memory().live, before);
    const std::size_t bucket = 64 * 64 * sizeof(float) / 4 * 3;
    EXPECT_EQ(mesh.device().memory().peak, before + 2 * bucket);
  });
}

TEST(Gradients, TakeTheSameMemoryAndTrafficWithoutDataAndWithoutRanks) {
  for (const Layout& layout : layouts) {
    in_ranks(layout, [&](const Mesh& mesh) {
      const auto run = [&](const Mesh& on, auto act) {
        Model model = make_model(on, DType::f32);
        Gradients gradients(on, model.layers);
        on.device().restart_peak();
        act(model, gradients, on);
        return on.device().memory().peak;
      };
      const std::size_t want = run(mesh, [](Model& model, Gradients& gradients, const Mesh& on) {
        step<float>(model, gradients, on);
      });
      FakeCommunicator fake(mesh.rank(), mesh.size());
      Device device(make_meta_backend(make_cpu_backend(1)));
      const Mesh planned(fake, device, layout, mesh.group(axes_of(View::dense)));
      const std::size_t found = run(planned, [](Model& model, Gradients& gradients, const Mesh&) {
        gradients.clear();
        for (std::size_t layer = model.layers.size(); layer-- > 0;) gradients.start(layer);
        gradients.finish();
      });
      EXPECT_EQ(found, want);
      EXPECT_EQ(fake.traffic(), mesh.communicator().traffic());
    });
  }
}

TEST(Gradients, OfOneRankGoNowhere) {
  in_ranks(1, [](const Mesh& mesh) {
    Model model = make_model(mesh);
    Gradients gradients(mesh, model.layers);
    step<double>(model, gradients, mesh);
    EXPECT_TRUE(mesh.communicator().traffic().empty());
  });
}

TEST(Gradients, StartedInAnotherOrderOnOneRankAreAnErrorThatNamesBoth) {
  try {
    in_ranks(2, [](const Mesh& mesh) {
      Model model = make_model(mesh);
      Gradients gradients(mesh, model.layers);
      gradients.clear();
      gradients.start(mesh.rank() ? 3 : 0);
      gradients.start(mesh.rank() ? 0 : 3);
      gradients.start(1);
      gradients.start(2);
      gradients.finish();
    });
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("gradients of p0"), std::string::npos) << text;
    EXPECT_NE(text.find("gradients of p8"), std::string::npos) << text;
  }
}

TEST(Gradients, WantEveryLayerOnceAStep) {
  in_ranks(1, [](const Mesh& mesh) {
    Model model = make_model(mesh);
    Gradients gradients(mesh, model.layers);
    gradients.clear();
    for (std::size_t layer : {3, 2, 1}) gradients.start(layer);
    EXPECT_THROW(gradients.finish(), Error);
    EXPECT_THROW(gradients.start(3), Error);
    EXPECT_THROW(gradients.start(4), Error);
    gradients.start(0);
    gradients.finish();
    model.parameters[0]->freeze();
    EXPECT_THROW(Gradients(mesh, model.layers), Error);
  });
}

TEST(Gradients, OfARankThatThrowsLeaveNobodyWaiting) {
  for (int after = 0; after < 4; ++after) {
    try {
      in_ranks(4, [&](const Mesh& mesh) {
        Model model = make_model(mesh);
        Gradients gradients(mesh, model.layers);
        gradients.clear();
        for (std::size_t layer = 4; layer-- > 0;) {
          if (mesh.rank() == 2 && int(layer) == after) throw Error("out of luck");
          gradients.start(layer);
        }
        gradients.finish();
      });
      FAIL();
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "rank 2: out of luck");
    }
  }
}

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
