#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "core/ops/linear.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Numbers = std::vector<double>;

config::Optimizer usual() {
  config::Optimizer config;
  config.set_lr(0.01);
  config.set_weight_decay(0.3);
  return config;
}

// Two matrices that are packed together, one alone, experts, and a norm.
struct Weights {
  explicit Weights(DType of_type) : type(of_type) {
    for (const auto& w : all) w->initialise(device, type, 5, stream++);
  }

  static std::unique_ptr<Parameter> make(const char* name, const Shape& shape,
                                         Init init = Init::normal) {
    return std::make_unique<Parameter>(name, shape, Block{{}, shape}, Label{}, init, 0.5);
  }
  void visit(const Visitor& visitor) {
    for (const auto& w : all) visitor.parameter(*w);
    for (Pack* pack : {&pair, &experts}) visitor.pack(*pack);
  }
  // Of step `step`: other numbers for each parameter.
  void set_gradients(std::int64_t step) {
    std::uint64_t seed = 100 * std::uint64_t(step);
    for (const auto& w : all) {
      const Tensor g = random_tensor(w->shape(), w->value().dtype(), device, ++seed);
      backend(g).copy(w->gradient(), g);
    }
  }

  DType type;
  Device device{make_cpu_backend(1)};
  std::uint32_t stream = 1;
  std::vector<std::unique_ptr<Parameter>> all = [] {
    std::vector<std::unique_ptr<Parameter>> made;
    made.push_back(make("gate", {37, 70}));
    made.push_back(make("up", {19, 70}));
    made.push_back(make("alone", {5, 7}));
    made.push_back(make("experts", {3, 33, 40}));
    made.push_back(make("norm", {70}, Init::ones));
    return made;
  }();
  Pack pair{"pair", {all[0].get(), all[1].get()}}, experts{"experts", {all[3].get()}};
};

// Loshchilov and Hutter 2019, algorithm 2, for one parameter.
struct Reference {
  Numbers w, m, v;
  int steps = 0;

  void step(const Numbers& gradient, double scale, const config::Optimizer& c, bool decays) {
    ++steps;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double g = scale * gradient[i];
      m[i] = c.beta1() * m[i] + (1 - c.beta1()) * g;
      v[i] = c.beta2() * v[i] + (1 - c.beta2()) * g * g;
      const double mean = m[i] / (1 - std::pow(c.beta1(), steps));
      const double square = v[i] / (1 - std::pow(c.beta2(), steps));
      w[i] -=
          c.lr() * (mean / (std::sqrt(square) + c.eps()) + (decays ? c.weight_decay() * w[i] : 0));
    }
  }
};

// The rounding of one product or sum, of each of a few steps.
void expect_near(const Numbers& got, const Numbers& want, DType type) {
  const double rounding = type == DType::f64 ? 1e-14 : 1e-6;
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], rounding) << i;
}

void expect_like_the_reference(DType type, const config::Optimizer& config) {
  Weights weights(type);
  AdamW optimizer(config, [&](const Visitor& visitor) { weights.visit(visitor); });
  std::vector<Reference> references;
  for (const auto& w : weights.all) {
    const Numbers zeros(std::size_t(w->size()), 0);
    references.push_back({elements(w->value()), zeros, zeros});
  }
  for (int step = 0; step < 5; ++step) {
    const double scale = step % 2 == 0 ? 1 : 0.25;
    weights.set_gradients(step);
    optimizer.step(config.lr(), scale);
    EXPECT_EQ(optimizer.steps_taken(), step + 1);
    for (std::size_t i = 0; i < references.size(); ++i) {
      Parameter& w = *weights.all[i];
      SCOPED_TRACE(w.name());
      references[i].step(elements(w.gradient()), scale, config, w.shape().dims() > 1);
      expect_near(elements(w.value()), references[i].w, type);
    }
  }
}

TEST(AdamW, StepsAreThoseOfPlainLoops) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    expect_like_the_reference(type, usual());
}

TEST(AdamW, OtherBetasAndNoDecayToo) {
  config::Optimizer config = usual();
  config.set_beta1(0);
  config.set_beta2(0.5);
  config.set_eps(0.1);
  config.set_weight_decay(0);
  expect_like_the_reference(DType::f64, config);
}

TEST(AdamW, TheFirstStepGoesByTheLearningRateAgainstTheSign) {
  Weights weights(DType::f64);
  config::Optimizer config = usual();
  config.set_weight_decay(0);
  AdamW optimizer(config, [&](const Visitor& visitor) { weights.visit(visitor); });
  const Numbers before = elements(weights.all[2]->value());
  weights.set_gradients(0);
  optimizer.step(0.125, 1);
  const Numbers after = elements(weights.all[2]->value());
  const Numbers gradient = elements(weights.all[2]->gradient());
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_NEAR(after[i] - before[i], gradient[i] > 0 ? -0.125 : 0.125, 1e-6);
}

TEST(AdamW, ALearningRateOfZeroChangesNothing) {
  Weights weights(DType::f32);
  AdamW optimizer(usual(), [&](const Visitor& visitor) { weights.visit(visitor); });
  const Numbers before = elements(weights.all[0]->value());
  weights.set_gradients(0);
  optimizer.step(0, 1);
  EXPECT_EQ(elements(weights.all[0]->value()), before);
}

// y = x w' and dx = dy w: both blocked copies.
std::vector<Numbers> products(Pack& pack, DType type, Device& device) {
  const std::int64_t groups =
      pack.parts()[0]->shape().dims() == 3 ? pack.parts()[0]->shape()[0] : 1;
  const Tensor in = random_tensor({groups * 3, pack.parts()[0]->shape()[-1]}, type, device, 42);
  const std::vector<std::int64_t> counts(std::size_t(groups), 3);
  Tape tape;
  const Tensor x = tape.watch(in);
  std::vector<Tensor> ys, dys;
  {
    const Tape::Recording on(&tape);
    ys = groups > 1 ? grouped_linear({x, {}, counts}, pack) : linear(x, pack);
  }
  for (std::size_t i = 0; i < ys.size(); ++i)
    dys.push_back(random_tensor(ys[i].shape(), type, device, 50 + i));
  std::vector<Numbers> out;
  for (const Tensor& y : ys) out.push_back(elements(y));
  tape.backward(ys, dys);
  out.push_back(elements(tape.gradient(x)));
  return out;
}

TEST(AdamW, PacksAreThoseOfTheNewValues) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    Weights weights(type);
    AdamW optimizer(usual(), [&](const Visitor& visitor) { weights.visit(visitor); });
    for (Pack* pack : {&weights.pair, &weights.experts}) {
      SCOPED_TRACE(pack->name() + ' ' + name(type));
      const auto before = products(*pack, type, weights.device);
      for (int step = 0; step < 3; ++step) {
        weights.set_gradients(step);
        optimizer.step(0.05, 1);
        Pack fresh("fresh", pack->parts());
        const auto after = products(*pack, type, weights.device);
        EXPECT_EQ(after, products(fresh, type, weights.device));
        EXPECT_NE(after, before);
      }
    }
  }
}

TEST(AdamW, APackThatWasNotUsedYetIsMadeOfTheNewValues) {
  Weights weights(DType::bf16);
  AdamW optimizer(usual(), [&](const Visitor& visitor) { weights.visit(visitor); });
  weights.set_gradients(0);
  optimizer.step(0.05, 1);
  Pack fresh("fresh", weights.pair.parts());
  EXPECT_EQ(products(weights.pair, DType::bf16, weights.device),
            products(fresh, DType::bf16, weights.device));
}

TEST(AdamW, FrozenParametersStay) {
  Weights weights(DType::bf16);
  weights.all[1]->freeze();  // half of a pack
  weights.all[4]->freeze();
  AdamW optimizer(usual(), [&](const Visitor& visitor) { weights.visit(visitor); });
  products(weights.pair, DType::bf16, weights.device);
  std::vector<Numbers> before;
  before.reserve(weights.all.size());
  for (const auto& w : weights.all) before.push_back(elements(w->value()));
  weights.set_gradients(0);
  optimizer.step(0.05, 1);
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool is_same = elements(weights.all[i]->value()) == before[i];
    EXPECT_EQ(is_same, !weights.all[i]->is_trainable()) << weights.all[i]->name();
  }
  Pack fresh("fresh", weights.pair.parts());
  EXPECT_EQ(products(weights.pair, DType::bf16, weights.device),
            products(fresh, DType::bf16, weights.device));
}

TEST(AdamW, RolesDecayAsTheConfigurationSays) {
  const std::pair<Role, void (config::DecayedRoles::*)(bool)> roles[] = {
      {Role::matrix, &config::DecayedRoles::set_matrix},
      {Role::embedding, &config::DecayedRoles::set_embedding},
      {Role::head, &config::DecayedRoles::set_head},
      {Role::router, &config::DecayedRoles::set_router},
      {Role::norm, &config::DecayedRoles::set_norm},
      {Role::bias, &config::DecayedRoles::set_bias}};
  for (const auto& [role, set] : roles) {
    const Parameter w("w", {3, 4}, Block{{}, {3, 4}}, Label{}, Init::normal, 1, role);
    config::Optimizer config = usual();
    EXPECT_EQ(decay_of(w, config), role == Role::norm || role == Role::bias ? 0 : 0.3);
    for (const bool decays : {false, true}) {
      (config.mutable_decays()->*set)(decays);
      EXPECT_EQ(decay_of(w, config), decays ? 0.3 : 0);
    }
  }
}

TEST(AdamW, PartsOfAPackMayDecayDifferently) {
  Device device(make_cpu_backend(1));
  Parameter w("w", {3, 4}, Block{{}, {3, 4}}, Label{}, Init::normal, 1);
  Parameter router("router", {2, 4}, Block{{}, {2, 4}}, Label{}, Init::normal, 1, Role::router);
  Pack pack("pack", {&w, &router});
  for (Parameter* p : {&w, &router}) p->initialise(device, DType::f64, 1, 1);
  config::Optimizer config = usual();
  config.mutable_decays()->set_router(false);
  AdamW optimizer(config, [&](const Visitor& visitor) {
    for (Parameter* p : {&w, &router}) visitor.parameter(*p);
    visitor.pack(pack);
  });
  const Numbers matrix = elements(w.value()), routes = elements(router.value());
  optimizer.step(0.5, 1);  // gradients are zeros
  for (std::size_t i = 0; i < matrix.size(); ++i)
    EXPECT_NEAR(elements(w.value())[i], matrix[i] * (1 - 0.5 * 0.3), 1e-15);
  EXPECT_EQ(elements(router.value()), routes);
}

}  // namespace
}  // namespace pf
