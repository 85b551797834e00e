#include "parallel/gradients.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/error.h"
#include "tests/parallel/gradient_model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;

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

}  // namespace
}  // namespace pf
