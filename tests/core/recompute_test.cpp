// Segments that backward runs again.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "core/ops/routing.h"
#include "core/ops/rows.h"
#include "core/tape.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;
using Weight = std::unique_ptr<Parameter>;

// Attention, routed experts and dropout: [24, 8] -> [24, 8], with an auxiliary loss.
class SmallLayer {
 public:
  static constexpr std::int64_t tokens = 24, hidden = 8, ffn = 5, experts = 4;

  SmallLayer(Device& device, DType type)
      : type_(type),
        norm_(make_weight("norm", {hidden}, device, {}, type)),
        value_(make_weight("value", {hidden, hidden}, device, {}, type)),
        router_(make_weight("router", {experts, hidden}, device, {}, type)),
        gate_(make_weight("gate", {experts, ffn, hidden}, device, {}, type)),
        up_(make_weight("up", {experts, ffn, hidden}, device, {}, type)),
        down_(make_weight("down", {experts, hidden, ffn}, device, {}, type)) {
    std::vector<std::int64_t> numbers;
    for (std::int64_t t = 0; t < tokens; ++t) numbers.push_back(t);
    token_ = tensor_of(numbers, {tokens}, device);
  }

  Tensor operator()(const Tensor& x) {
    const Tensor h = rms_norm(x, *norm_);
    const Tensor y = attention(h, h, linear(h, value_pack_)[0], causal_areas(2, tokens / 2),
                               {.heads = 2, .kv_heads = 2, .head_dim = 4, .scale = 0.5});
    const Tensor z = add(x, dropout(y, 0.3, {1, 2, 3}, token_, hidden));
    const Tensor logits = linear(cast(z, accumulation(type_)), router_pack_)[0];
    const Routed routed = route(logits, 2, {RouterKind::softmax_top_k}, decided_);
    decided_ = routed.chosen;
    choices.push_back(routed.chosen.to_vector<std::int32_t>());
    const Tensor ones = Tensor::empty({tokens}, accumulation(type_), x.device()).detached();
    backend(ones).fill(ones, 1);
    Tape::root(square_sum(routed.lse, ones, 0.01));
    const Plan order = plan(routed.chosen, experts);
    const Permuted sent = permute(z, routed.weights, order);
    const ExpertRows rows{sent.x, sent.weights, order.counts.to_vector<std::int64_t>()};
    const auto gate_up = grouped_linear(rows, gate_up_pack_);
    const Tensor a = swiglu(gate_up[0], gate_up[1], rows.weights);
    return add(z, combine(grouped_linear({a, rows.weights, rows.counts}, down_pack_)[0], order));
  }

  std::vector<Parameter*> weights() const {
    return {norm_.get(), value_.get(), router_.get(), gate_.get(), up_.get(), down_.get()};
  }

  std::vector<std::vector<std::int32_t>> choices;  // of each run

 private:
  DType type_;
  Tensor token_, decided_;
  Weight norm_, value_, router_, gate_, up_, down_;
  Pack value_pack_{"value", {value_.get()}}, router_pack_{"router", {router_.get()}},
      gate_up_pack_{"gate_up", {gate_.get(), up_.get()}}, down_pack_{"down", {down_.get()}};
};

struct Outcome {
  std::vector<std::vector<double>> gradients;
  Memory memory;
  std::vector<std::vector<std::int32_t>> choices;
};

// Three layers one after another, each a segment.
Outcome run(DType type, bool recomputes) {
  Device device(make_cpu_backend(2));
  SmallLayer layers[] = {{device, type}, {device, type}, {device, type}};
  const Tensor x = random_tensor({SmallLayer::tokens, SmallLayer::hidden}, type, device, 1);
  const Tensor functional = random_tensor(x.shape(), type, device, 2).detached();
  Tape tape;
  const Tensor in = tape.watch(x);
  {
    const Tape::Recording on(&tape);
    Tensor y = in;
    for (SmallLayer& layer : layers) {
      const Segment segment = [&layer](std::span<const Tensor> xs) {
        return Tensors{layer(xs[0])};
      };
      y = recomputes ? recompute(segment, {y})[0] : layer(y);
    }
    Tape::root(dot(y, functional, 1));
  }
  tape.backward();
  Outcome out;
  out.memory = device.memory();
  out.gradients.push_back(elements(tape.gradient(in)));
  for (SmallLayer& layer : layers) {
    for (Parameter* w : layer.weights()) out.gradients.push_back(elements(w->gradient()));
    out.choices.insert(out.choices.end(), layer.choices.begin(), layer.choices.end());
  }
  return out;
}

TEST(Recompute, GivesBitwiseTheSameGradients) {
  for (DType type : {DType::f64, DType::f32, DType::bf16}) {
    const Outcome kept = run(type, false), again = run(type, true);
    EXPECT_EQ(kept.gradients, again.gradients) << name(type);
  }
}

TEST(Recompute, KeepsTheRoutingOfItsFirstRun) {
  const Outcome again = run(DType::f64, true);
  ASSERT_EQ(again.choices.size(), 6u);
  for (std::size_t layer = 0; layer < 3; ++layer)
    EXPECT_EQ(again.choices[2 * layer], again.choices[2 * layer + 1]);
}

TEST(Recompute, HasASmallerPeak) {
  EXPECT_LT(run(DType::f64, true).memory.peak, run(DType::f64, false).memory.peak);
}

TEST(Recompute, KeepsItsInputsAndOutputsAlone) {
  Device device(make_cpu_backend(1));
  SmallLayer layer(device, DType::f64);
  const Tensor x = random_tensor({SmallLayer::tokens, SmallLayer::hidden}, DType::f64, device, 1);
  layer(x);  // its routing is kept from now on
  Tape tape;
  const Tensor in = tape.watch(x);
  const std::size_t live = device.memory().live;
  const Tape::Recording on(&tape);
  const Tensor y =
      recompute([&](std::span<const Tensor> xs) { return Tensors{layer(xs[0])}; }, {in})[0];
  EXPECT_EQ(device.memory().live, live + std::size_t(y.size()) * sizeof(double));
  EXPECT_EQ(tape.size(), 1u);
}

TEST(Recompute, WithoutATapeRunsOnce) {
  Device device(make_cpu_backend(1));
  int runs = 0;
  const Tensor x = random_tensor({3}, DType::f64, device, 1);
  recompute(
      [&](std::span<const Tensor> xs) {
        ++runs;
        return Tensors{scale(xs[0], 2)};
      },
      {x});
  EXPECT_EQ(runs, 1);
}

TEST(Recompute, MayBeNested) {
  Device device(make_cpu_backend(1));
  SmallLayer plain(device, DType::f64), nested(device, DType::f64);
  const Tensor x = random_tensor({SmallLayer::tokens, SmallLayer::hidden}, DType::f64, device, 1);
  const Segment inner = [&](std::span<const Tensor> xs) { return Tensors{nested(xs[0])}; };
  const Segment outer = [&](std::span<const Tensor> xs) {
    return Tensors{scale(recompute(inner, {xs[0]})[0], 3)};
  };
  const auto wanted = tape_gradients(
      [&](const Tensors& xs) { return Tensors{scale(plain(xs[0]), 3)}; }, {x}, plain.weights());
  const auto found = tape_gradients([&](const Tensors& xs) { return recompute(outer, xs); }, {x},
                                    nested.weights());
  EXPECT_EQ(found, wanted);
}

TEST(Recompute, DefersWeightGradientsOfItsSegment) {
  Device device(make_cpu_backend(1));
  const Weight w = make_weight("w", {3, 4}, device);
  Pack pack("w", {w.get()});
  Tape tape;
  const Tensor x = tape.watch(random_tensor({5, 4}, DType::f64, device, 1));
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = recompute([&](std::span<const Tensor> xs) { return linear(xs[0], pack); }, {x})[0];
  }
  const Tensor ys[] = {y}, dys[] = {random_tensor({5, 3}, DType::f64, device, 2)};
  std::vector<Tape::Work> deferred;
  tape.backward(ys, dys, &deferred);
  EXPECT_FALSE(w->has_gradient());
  ASSERT_EQ(deferred.size(), 1u);
  deferred[0]();
  EXPECT_TRUE(w->has_gradient());
}

TEST(Recompute, OfASegmentWithoutInputsTrainsItsWeights) {
  Device device(make_cpu_backend(1));
  const Weight kept = make_weight("w", {5, 4}, device), again = make_weight("w", {5, 4}, device);
  const Tensor ids = ids_of({4, 1, 1}, device);
  const auto of = [&](Parameter& w) {
    return [&](std::span<const Tensor>) { return Tensors{embedding(ids, w, DType::f64)}; };
  };
  const auto wanted =
      tape_gradients([&](const Tensors&) { return of(*kept)({}); }, {}, {kept.get()});
  const auto found =
      tape_gradients([&](const Tensors&) { return recompute(of(*again), {}); }, {}, {again.get()});
  EXPECT_EQ(found, wanted);
}

TEST(Recompute, ChecksSpreadsInItsFirstRun) {
  Device device(make_cpu_backend(1));
  const Weight w = make_weight("norm", {4}, device, dense(invariant, replicated, replicated));
  Tape tape;
  const Tensor x =
      tape.watch(random_tensor({3, 4}, DType::f64, device, 1, dense(rows, rows, rows)));
  const Tape::Recording on(&tape);
  expect_error(
      [&] {
        recompute([&](std::span<const Tensor> xs) { return Tensors{rms_norm(xs[0], *w)}; }, {x});
      },
      {"rms_norm", "invariant on share"});
}

// y = w2 (2 x), where 2 x is dropped between forward and backward.
TEST(Rebuild, GivesMemoryBackUntilBackwardReadsIt) {
  Device device(make_cpu_backend(1));
  const Weight w = make_weight("w", {3, 4}, device);
  Pack pack("w", {w.get()});
  const auto gradients = [&](bool rebuilds) {
    const Tensor x = random_tensor({5, 4}, DType::f64, device, 1);
    int runs = 0;
    Tape tape;
    const Tensor in = tape.watch(x);
    Tensor y;
    {
      const Tape::Recording on(&tape);
      const auto inner = [&runs, in] {
        ++runs;
        return scale(in, 2);
      };
      const Tensor a = inner();
      y = linear(a, pack)[0];
      const std::size_t live = device.memory().live;
      if (rebuilds) {
        Tape::rebuild(a, inner);
        EXPECT_EQ(device.memory().live, live - 5 * 4 * sizeof(double));
        EXPECT_THROW(a.to_vector<double>(), Error);
        EXPECT_THROW(Tape::rebuild(a, inner), Error);
        EXPECT_THROW(Tape::rebuild(y.columns(0, 2), inner), Error);
      }
    }
    const Tensor ys[] = {y}, dys[] = {random_tensor({5, 3}, DType::f64, device, 2)};
    w->clear_gradient();
    tape.backward(ys, dys);
    EXPECT_EQ(runs, rebuilds ? 2 : 1);
    return std::pair(elements(tape.gradient(in)), elements(w->gradient()));
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

TEST(Rebuild, NeedsATapeThatSaves) {
  Device device(make_cpu_backend(1));
  const Tensor x = random_tensor({5}, DType::f64, device, 1);
  Tape::rebuild(x, [] { return Tensor(); });
  EXPECT_EQ(x.to_vector<double>().size(), 5u);
}

}  // namespace
}  // namespace pf
