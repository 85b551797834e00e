#include "optim/muon.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <mutex>

#include "models/weights.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Numbers = std::vector<double>;

struct Matrix {
  std::size_t rows, columns;
  Numbers at;
};

Matrix times(const Matrix& a, const Matrix& b) {
  Matrix y{a.rows, b.columns, Numbers(a.rows * b.columns)};
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t k = 0; k < a.columns; ++k)
      for (std::size_t j = 0; j < b.columns; ++j)
        y.at[i * b.columns + j] += a.at[i * a.columns + k] * b.at[k * b.columns + j];
  return y;
}

Matrix transposed(const Matrix& a) {
  Matrix y{a.columns, a.rows, Numbers(a.at.size())};
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t j = 0; j < a.columns; ++j) y.at[j * a.rows + i] = a.at[i * a.columns + j];
  return y;
}

// Newton-Schulz as in Jordan et al. 2024, in plain loops.
Matrix reference(Matrix x) {
  double square = 0;
  for (const double e : x.at) square += e * e;
  for (double& e : x.at) e /= std::sqrt(square) + 1e-7;
  for (int i = 0; i < 5; ++i) {
    const Matrix gram = times(x, transposed(x)), once = times(gram, x), twice = times(gram, once);
    for (std::size_t k = 0; k < x.at.size(); ++k)
      x.at[k] = 3.4445 * x.at[k] - 4.7750 * once.at[k] + 2.0315 * twice.at[k];
  }
  return x;
}

TEST(Muon, MakesMatricesOrthogonalAsPlainLoopsDo) {
  Device device(make_cpu_backend(1));
  for (const Shape& shape : {Shape{5, 9}, Shape{9, 5}, Shape{6, 6}, Shape{1, 7}}) {
    for (const DType type : {DType::f64, DType::f32}) {
      const Tensor x = random_tensor(shape, type, device, 3);
      const Matrix want = reference({std::size_t(shape[0]), std::size_t(shape[1]), elements(x)});
      const Numbers got = elements(orthogonal(x));
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_NEAR(got[i], want.at[i], type == DType::f64 ? 1e-13 : 2e-5);
    }
  }
}

TEST(Muon, SingularValuesComeNearOne) {
  Device device(make_cpu_backend(1));
  const Tensor y = orthogonal(random_tensor({6, 40}, DType::f64, device, 1));
  const Matrix found{6, 40, elements(y)}, gram = times(found, transposed(found));
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(gram.at[i * 7], 1, 0.5);
}

TEST(Muon, OfNothingIsNothing) {
  Device device(make_cpu_backend(1));
  EXPECT_EQ(elements(orthogonal(Tensor::zeros({3, 4}, DType::f64, device))), Numbers(12, 0));
}

config::Optimizer usual() {
  config::Optimizer config;
  config.set_kind(config::Optimizer::muon);
  config.set_lr(0.05);
  config.set_weight_decay(0.3);
  return config;
}

// Weights of every cut, as one rank holds them.
struct Weights {
  explicit Weights(const Mesh& mesh) {
    add(mesh, {"rows", {12, 8}, dense_weight(Cut::rows), Init::normal, 1});
    add(mesh, {"columns", {8, 12}, dense_weight(Cut::columns), Init::normal, 1});
    add(mesh, {"whole", {6, 8}, dense_weight(Cut::whole), Init::normal, 1});
    add(mesh, {"experts.rows", {4, 8, 5}, expert_weight(Cut::rows), Init::normal, 1});
    add(mesh, {"experts.columns", {4, 5, 8}, expert_weight(Cut::columns), Init::normal, 1});
    add(mesh, {"embedding", {12, 8}, dense_weight(Cut::rows), Init::normal, 1, Role::embedding});
    add(mesh, {"norm", {8}, dense_weight(Cut::whole), Init::ones});
  }
  void add(const Mesh& mesh, const WeightSpec& spec) {
    all.push_back(std::unique_ptr<Parameter>(new Parameter(make_parameter(mesh, spec))));
    all.back()->initialise(mesh.device(), DType::f64, 7, std::uint32_t(all.size()));
  }
  void visit(const Visitor& visitor) {
    for (const auto& w : all) visitor.parameter(*w);
  }

  std::vector<std::unique_ptr<Parameter>> all;
};

// Element (i, j, ...) of what the ranks sum up to be w's gradient, of all elements of the model.
double gradient_of(std::size_t number, std::int64_t index, int step) {
  return std::sin(double(index + 1) * 1.7 + double(number) + 10.0 * step);
}

// The row-major index in the whole of each element of a block.
std::vector<std::int64_t> indices(const Parameter& w) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < w.size(); ++i) {
    std::int64_t rest = i, index = 0, stride = 1;
    for (int d = w.shape().dims(); d-- > 0;) {
      index += (w.block().begin[std::size_t(d)] + rest % w.shape()[d]) * stride;
      rest /= w.shape()[d];
      stride *= w.whole()[d];
    }
    out.push_back(index);
  }
  return out;
}

// All weights of the model after three steps, whole.
std::vector<Numbers> trained(const Layout& layout, int sharing) {
  std::vector<Numbers> out(7);
  std::mutex mutex;
  in_ranks(layout, [&](const Mesh& mesh) {
    Weights weights(mesh);
    std::vector<Parameter*> layer;
    for (const auto& w : weights.all) layer.push_back(w.get());
    const config::Optimizer config = usual();
    Gradients gradients(mesh, {{layer}},
                        {sharing, [&](const Parameter& w) { return needs_matrices(w, config); }});
    const auto optimizer = make_optimizer(config, mesh, gradients.parts(),
                                          [&](const Visitor& v) { weights.visit(v); });
    for (int step = 0; step < 3; ++step) {
      gradients.clear();
      for (std::size_t n = 0; n < layer.size(); ++n) {
        // One rank of each sum has all of it.
        const bool has = mesh.coordinate(summed_over(layer[n]->label())) == 0;
        const auto index = indices(*layer[n]);
        const Tensor g = layer[n]->gradient_target().tensor;
        for (std::size_t i = 0; i < index.size(); ++i)
          g.data<double>()[i] = has ? gradient_of(n, index[i], step) : 0;
      }
      gradients.start(0);
      gradients.finish();
      optimizer->step(0.05, 1);
      gradients.share_values();
      gradients.wait_for_values();
    }
    const std::scoped_lock lock(mutex);
    for (std::size_t n = 0; n < layer.size(); ++n) {
      out[n].resize(std::size_t(layer[n]->whole().size()));
      const auto index = indices(*layer[n]);
      const Numbers values = elements(layer[n]->value());
      for (std::size_t i = 0; i < index.size(); ++i) out[n][std::size_t(index[i])] = values[i];
    }
  });
  return out;
}

TEST(Muon, MatricesThatAreCutEqualOneRank) {
  const std::vector<Numbers> want = trained({}, 1);
  for (const Layout& layout :
       {Layout{.dp = 3, .edp = 3}, Layout{.kv = 2, .etp = 2}, Layout{.share = 2, .kv = 2, .ep = 4},
        Layout{.kv = 4, .etp = 1, .ep = 2, .edp = 2}, Layout{.kv = 2, .dp = 2, .etp = 2, .edp = 2},
        Layout{.share = 2, .dp = 2, .ep = 2, .edp = 2}}) {
    for (const int sharing : {1, 0, 2}) {
      const std::vector<Numbers> got = trained(layout, sharing);
      for (std::size_t n = 0; n < want.size(); ++n)
        for (std::size_t i = 0; i < want[n].size(); ++i)
          EXPECT_NEAR(got[n][i], want[n][i], 1e-12) << n << " with " << sharing;
    }
  }
}

TEST(Muon, AStepIsMomentumThenOrthogonalThenTheScaleOfAdamW) {
  in_ranks(1, [](const Mesh& mesh) {
    Parameter w = make_parameter(mesh, {"w", {4, 6}, dense_weight(Cut::whole), Init::normal, 1});
    w.initialise(mesh.device(), DType::f64, 1, 1);
    const Visit visit = [&](const Visitor& visitor) { visitor.parameter(w); };
    Muon optimizer(usual(), mesh, whole_parts(visit), visit);
    Matrix velocity{4, 6, Numbers(24)};
    Numbers want = elements(w.value());
    for (int step = 0; step < 3; ++step) {
      const Tensor g = random_tensor({4, 6}, DType::f64, mesh.device(), std::uint64_t(step));
      backend(g).copy(w.gradient(), g);
      optimizer.step(0.05, 0.5);
      EXPECT_EQ(optimizer.steps_taken(), step + 1);
      Matrix u = velocity;
      for (std::size_t i = 0; i < 24; ++i) {
        velocity.at[i] = 0.95 * velocity.at[i] + 0.5 * elements(g)[i];
        u.at[i] = 0.5 * elements(g)[i] + 0.95 * velocity.at[i];
      }
      u = reference(u);
      for (std::size_t i = 0; i < 24; ++i) {
        want[i] = want[i] * (1 - 0.05 * 0.3) - 0.05 * 0.2 * std::sqrt(6) * u.at[i];
        EXPECT_NEAR(elements(w.value())[i], want[i], 1e-13);
      }
    }
  });
}

TEST(Muon, TheRestGetsAdamW) {
  in_ranks(1, [](const Mesh& mesh) {
    for (const Role role : {Role::embedding, Role::head, Role::router, Role::norm, Role::bias}) {
      Numbers after[2];
      for (const bool is_muon : {false, true}) {
        Parameter w =
            make_parameter(mesh, {"w", {4, 6}, dense_weight(Cut::whole), Init::normal, 1, role});
        w.initialise(mesh.device(), DType::f64, 1, 1);
        const Visit visit = [&](const Visitor& visitor) { visitor.parameter(w); };
        config::Optimizer config = usual();
        if (!is_muon) config.set_kind(config::Optimizer::adamw);
        const auto optimizer = make_optimizer(config, mesh, whole_parts(visit), visit);
        const Tensor g = random_tensor({4, 6}, DType::f64, mesh.device(), 2);
        backend(g).copy(w.gradient(), g);
        optimizer->step(0.05, 1);
        after[is_muon] = elements(w.value());
      }
      EXPECT_EQ(after[1], after[0]);
    }
  });
}

}  // namespace
}  // namespace pf
