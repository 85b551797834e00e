#include "optim/sgd.h"

#include <gtest/gtest.h>

#include "tests/tensors.h"

namespace pf {
namespace {

using Numbers = std::vector<double>;

struct Options {
  double momentum;
  bool nesterov;
};

// Plain loops over the formulas of the header.
void expect_like_the_reference(DType type, const Options& options) {
  Device device(make_cpu_backend(1));
  Parameter w("w", {5, 7}, Block{{}, {5, 7}}, Label{}, Init::normal, 0.5);
  Parameter norm("norm", {9}, Block{{}, {9}}, Label{}, Init::ones);
  config::Optimizer config;
  config.set_kind(config::Optimizer::sgd);
  config.set_momentum(options.momentum);
  config.set_nesterov(options.nesterov);
  config.set_weight_decay(0.3);
  for (Parameter* p : {&w, &norm}) {
    p->initialise(device, type, 5, 1);
    Sgd optimizer(config, {{p, 0, p->size()}});
    Numbers want = elements(p->value()), velocity(want.size());
    const double decay = p == &w ? 0.3 : 0, lr = 0.05;
    for (int step = 0; step < 4; ++step) {
      const Tensor g = random_tensor(p->shape(), p->value().dtype(), device, std::uint64_t(step));
      backend(g).copy(p->gradient(), g);
      const double scale = step == 1 ? 0.25 : 1;
      optimizer.step(lr, scale);
      EXPECT_EQ(optimizer.steps_taken(), step + 1);
      const Numbers gradient = elements(g), got = elements(p->value());
      for (std::size_t i = 0; i < want.size(); ++i) {
        velocity[i] = options.momentum * velocity[i] + scale * gradient[i];
        const double u =
            options.nesterov ? scale * gradient[i] + options.momentum * velocity[i] : velocity[i];
        want[i] = want[i] * (1 - lr * decay) - lr * u;
        EXPECT_NEAR(got[i], want[i], type == DType::f64 ? 1e-14 : 2e-6) << i;
      }
    }
  }
}

TEST(Sgd, StepsAreThoseOfPlainLoops) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Options& options : {Options{0.9, false}, {0.9, true}, {0, false}, {0, true}})
      expect_like_the_reference(type, options);
}

}  // namespace
}  // namespace pf
