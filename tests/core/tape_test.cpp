// The tape: what it keeps, what it refuses, and when weight gradients are made.
#include "core/tape.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "core/ops/rows.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;
using Weight = std::unique_ptr<Parameter>;

struct TapeTest : testing::Test {
  Device device{make_cpu_backend(2)};

  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {}) {
    return random_tensor(shape, DType::f64, device, seed, label);
  }
  // A scalar that depends on all of x.
  Tensor loss_of(const Tensor& x, std::uint64_t seed = 77) {
    return dot(x, make(x.shape(), seed).detached(), 1);
  }
};

// A norm, a product of two parts and a sum: [tokens, 6] -> [tokens, 4].
struct Block {
  explicit Block(Device& device)
      : norm(make_weight("norm", {6}, device)),
        gate(make_weight("gate", {4, 6}, device)),
        up(make_weight("up", {4, 6}, device)),
        pack("gate_up", {gate.get(), up.get()}) {}

  Tensor operator()(const Tensor& x) {
    const auto parts = linear(rms_norm(x, *norm), pack);
    return swiglu(parts[0], parts[1]);
  }
  std::vector<Parameter*> weights() const { return {norm.get(), gate.get(), up.get()}; }

  Weight norm, gate, up;
  Pack pack;
};

TEST_F(TapeTest, TheGradientOfATensorUsedTwiceIsTheSum) {
  expect_gradients(
      [](const Tensors& x) { return Tensors{add(swiglu(x[0], x[0]), scale(x[0], 3))}; },
      {make({3, 4}, 1)});
}

TEST_F(TapeTest, AddingATensorToItselfGivesTwiceTheGradient) {
  Tape tape;
  const Tensor x = tape.watch(make({5}, 1));
  const Tensor b = make({5}, 2).detached();
  {
    const Tape::Recording on(&tape);
    Tape::root(dot(add(x, x), b, 1));
  }
  tape.backward();
  auto wanted = b.to_vector<double>();
  for (double& value : wanted) value *= 2;
  EXPECT_EQ(tape.gradient(x).to_vector<double>(), wanted);
}

TEST_F(TapeTest, SeveralRootsAndGivenGradientsAddUp) {
  Tape tape;
  const Tensor x = tape.watch(make({5}, 1));
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = scale(x, 2);
    Tape::root(dot(y, make({5}, 2).detached(), 1));
    Tape::root(dot(x, make({5}, 3).detached(), 10));
  }
  const Tensor ys[] = {y}, dys[] = {make({5}, 4)};
  tape.backward(ys, dys);
  const auto found = tape.gradient(x).to_vector<double>();
  const auto b = make({5}, 2).to_vector<double>(), c = make({5}, 3).to_vector<double>(),
             d = make({5}, 4).to_vector<double>();
  for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(found[i], 2 * (b[i] + d[i]) + 10 * c[i], 1e-15);
}

TEST_F(TapeTest, GradientsOfTheCallerStayAsTheyAre) {
  Tape tape;
  const Tensor x = tape.watch(make({5}, 1));
  const Tensor ys[] = {x, x}, dys[] = {make({5}, 2), make({5}, 3)};
  const auto first = elements(dys[0]), second = elements(dys[1]);
  tape.backward(ys, dys);
  EXPECT_EQ(elements(dys[0]), first);
  EXPECT_EQ(elements(dys[1]), second);
  const auto sum = elements(tape.gradient(x));
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(sum[i], first[i] + second[i]);
}

TEST_F(TapeTest, AGradientIsAddedInPlaceWhereNothingElseHoldsTheSum) {
  const Weight w = make_weight("norm", {6}, device);
  const auto gradient = [&](auto undo) {
    Tape tape;
    const Tensor x = tape.watch(make({5, 6}, 1));
    const Tensor y = [&] {
      const Tape::Recording on(&tape);
      return add(x, scale(rms_norm(x, *w), 3));
    }();
    undo(tape, y);
    return tape.gradient(x);
  };
  const Tensor held = make({5, 6}, 2);
  const auto before = held.to_vector<double>();
  const Tensor apart = gradient([&](Tape& tape, const Tensor& y) {
    const Tensor ys[] = {y}, dys[] = {held};
    tape.backward(ys, dys);
  });
  EXPECT_EQ(held.to_vector<double>(), before);
  const void* place = nullptr;
  const Tensor in_place = gradient([&](Tape& tape, const Tensor& y) {
    Tensor dy = make({5, 6}, 2);
    place = dy.raw();
    tape.backward_from(y, std::move(dy));
  });
  EXPECT_EQ(in_place.raw(), place);
  const auto found = in_place.to_vector<double>(), wanted = apart.to_vector<double>();
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-14);
}

TEST_F(TapeTest, WithoutATapeNothingIsKept) {
  Block block(device);
  const Tensor x = make({30, 6}, 1);
  block(x);
  const std::size_t live = device.memory().live;
  const Tensor y = block(x);
  EXPECT_EQ(device.memory().live, live + std::size_t(y.size()) * sizeof(double));
}

TEST_F(TapeTest, WhatATapeKeepsIsFreedByBackward) {
  Block block(device);
  const Tensor x = make({30, 6}, 1);
  for (Parameter* w : block.weights()) w->gradient();
  const std::size_t live = device.memory().live;
  {
    Tape tape;
    {
      const Tape::Recording on(&tape);
      Tape::root(loss_of(block(tape.watch(x))));
    }
    EXPECT_GT(device.memory().live, live);
    EXPECT_GT(tape.size(), 0u);
    tape.backward();
    EXPECT_EQ(tape.size(), 0u);
  }
  EXPECT_EQ(device.memory().live, live);
}

TEST_F(TapeTest, WhatNeedsNoGradientIsNotKept) {
  Tape tape;
  const Tape::Recording on(&tape);
  const Tensor x = make({3, 4}, 1);  // not watched
  scale(add(x, x), 2);
  swiglu(x, tape.watch(x).detached());
  EXPECT_EQ(tape.size(), 0u);
}

TEST_F(TapeTest, APausedTapeRecordsNothingAndGoesOn) {
  Tape tape;
  const Tensor x = tape.watch(make({3, 4}, 1));
  const Tape::Recording on(&tape);
  {
    const Tape::Recording pause(nullptr);
    EXPECT_FALSE(Tape::is_recording());
    scale(x, 2);
  }
  EXPECT_EQ(tape.size(), 0u);
  scale(x, 2);
  EXPECT_EQ(tape.size(), 1u);
}

TEST_F(TapeTest, AbsentGradientsAreZerosAndTheNodeStillRuns) {
  Tape tape;
  const Tensor x = tape.watch(make({2, 3}, 1));
  int runs = 0;
  {
    const Tape::Recording on(&tape);
    const Tensor y = make({4}, 2), z = make({2, 5}, 3, dense(replicated, rows, rows));
    Tape::record(Tensors{y, z}, {x}, false, [&](std::span<const Tensor> dys) {
      ++runs;
      EXPECT_EQ(dys[0].to_vector<double>(), std::vector<double>(4, 0.0));
      EXPECT_EQ(dys[1].to_vector<double>(), std::vector<double>(10, 0.0));
      EXPECT_EQ(dys[1].label(), dense(partial, rows, rows));
      return Tensors(1);
    });
  }
  tape.backward();
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(tape.gradient(x).to_vector<double>(), std::vector<double>(6, 0.0));
}

TEST_F(TapeTest, NodesAreUndoneInReverseOrder) {
  Tape tape;
  const Tensor x = tape.watch(make({2}, 1));
  std::vector<int> order;
  {
    const Tape::Recording on(&tape);
    Tensor last = x;
    for (int i = 0; i < 4; ++i) {
      const Tensor& from = i == 2 ? x : last;  // a branch that leads nowhere is undone in its turn
      const Tensor y = Tape::record(make({2}, 2), {from}, false, [&order, i](const Tensor& dy) {
        order.push_back(i);
        return dy;
      });
      if (i != 2) last = y;
    }
    Tape::root(loss_of(last));
  }
  tape.backward();
  EXPECT_EQ(order, (std::vector<int>{3, 2, 1, 0}));
}

TEST_F(TapeTest, NothingIsRecordedDuringBackward) {
  Tape tape;
  const Tensor x = tape.watch(make({2}, 1));
  const Tape::Recording on(&tape);
  Tape::record(Tensors{make({2}, 2)}, {x}, false, [&](std::span<const Tensor> dys) {
    EXPECT_FALSE(Tape::is_recording());
    return Tensors{scale(dys[0], 2)};
  });
  tape.backward();
  EXPECT_TRUE(Tape::is_recording());
}

TEST_F(TapeTest, ConstantsAmongOutputsHaveNoGradients) {
  Tape tape;
  const Tensor x = tape.watch(make({2}, 1));
  {
    const Tape::Recording on(&tape);
    const auto y = Tape::record(Tensors{make({2}, 2), make({3}, 3).detached()}, {x}, false,
                                [](std::span<const Tensor> dys) {
                                  EXPECT_FALSE(dys[1]);
                                  return Tensors{dys[0]};
                                });
    EXPECT_LT(y[1].slot().index, 0);
    Tape::root(loss_of(y[0]));
  }
  tape.backward();
}

TEST_F(TapeTest, DeferredWeightGradientsAreMadeInTheSecondHalfAndEqual) {
  const Tensor x = make({7, 6}, 1);
  Block now(device), later(device);
  for (Block* block : {&now, &later}) {
    Tape tape;
    {
      const Tape::Recording on(&tape);
      Tape::root(loss_of((*block)(tape.watch(x))));
    }
    if (block == &now) {
      tape.backward();
      continue;
    }
    std::vector<Tape::Work> deferred;
    tape.backward({}, {}, &deferred);
    EXPECT_EQ(deferred.size(), 1u);
    EXPECT_FALSE(later.gate->has_gradient());
    EXPECT_FALSE(later.up->has_gradient());
    for (const Tape::Work& work : deferred) work();
  }
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(now.weights()[i]->gradient().to_vector<double>(),
              later.weights()[i]->gradient().to_vector<double>());
}

TEST_F(TapeTest, DeferredWeightGradientsKeepNoWeights) {
  Block block(device);
  const Tensor x = make({7, 6}, 1);
  std::vector<Tape::Work> deferred;
  std::vector<std::vector<double>> found;
  for (bool changes : {false, true}) {
    Tape tape;
    {
      const Tape::Recording on(&tape);
      Tape::root(loss_of(block(tape.watch(x))));
    }
    tape.backward({}, {}, &deferred);
    if (changes) backend(block.gate->value()).fill(block.gate->value(), 0);
    for (const Tape::Work& work : deferred) work();
    deferred.clear();
    found.push_back(block.gate->gradient().to_vector<double>());
    block.gate->clear_gradient();
  }
  EXPECT_EQ(found[0], found[1]);
}

TEST_F(TapeTest, FrozenParametersGetNoGradient) {
  Block block(device);
  for (Parameter* frozen : block.weights()) {
    Block fresh(device);
    for (std::size_t i = 0; i < 3; ++i)
      if (block.weights()[i] == frozen) fresh.weights()[i]->freeze();
    Tape tape;
    const Tensor x = tape.watch(make({7, 6}, 1));
    {
      const Tape::Recording on(&tape);
      Tape::root(loss_of(fresh(x)));
    }
    tape.backward();
    for (Parameter* w : fresh.weights())
      EXPECT_EQ(w->has_gradient(), w->is_trainable()) << w->name();
    EXPECT_NE(tape.gradient(x).to_vector<double>(), std::vector<double>(42, 0.0));
  }
}

TEST_F(TapeTest, AFrozenEmbeddingIsNotRecorded) {
  const Weight w = make_weight("w", {5, 3}, device);
  w->freeze();
  Tape tape;
  const Tape::Recording on(&tape);
  embedding(ids_of({1, 2}, device), *w, DType::f64);
  EXPECT_EQ(tape.size(), 0u);
}

TEST_F(TapeTest, ATensorOfAnotherTapeIsAnError) {
  Tape mine, other;
  const Tensor x = other.watch(make({3}, 1));
  {
    const Tape::Recording on(&mine);
    expect_error([&] { scale(x, 2); }, {"another tape", "f64 [3]", "watch()"});
    expect_error([&] { Tape::root(loss_of(x)); }, {"another tape"});
  }
  Tensor loss;
  {
    const Tape::Recording on(&other);
    loss = loss_of(x);
  }
  {
    const Tape::Recording on(&mine);
    expect_error([&] { Tape::root(loss); }, {"backward: the loss", "another tape"});
  }
  expect_error([&] { static_cast<void>(mine.gradient(x)); }, {"gradient", "not watched"});
  const Tensor ys[] = {x}, dys[] = {x};
  expect_error([&] { mine.backward(ys, dys); }, {"backward", "not of this tape"});
}

TEST_F(TapeTest, ARootIsAScalarThatIsInvariantOrPartial) {
  Tape tape;
  const Tape::Recording on(&tape);
  expect_error([&] { Tape::root(make({2}, 1)); }, {"backward: the loss is f64 [2]", "scalar"});
  expect_error([&] { Tape::root(make({}, 1, dense(invariant, rows, partial, partial))); },
               {"backward: the loss is", "cp:rows", "invariant or partial"});
  Tape::root(make({}, 1, dense(invariant, partial, partial, partial)));
}

TEST_F(TapeTest, WithoutATapeARootMayHaveAnyLabel) {
  Tape::root(make({}, 1, dense(replicated, rows, rows)));  // weights are constants there
}

TEST_F(TapeTest, AWrongLabelOfAReturnedGradientIsAnError) {
  for (Spread returned : {partial, replicated, rows}) {
    Tape tape;
    const Tensor x = tape.watch(make({2}, 1, dense(replicated, rows, rows)));
    const Label to_x = dense(returned, rows, rows);
    const Tensor y = make({2}, 2, dense(rows, rows, rows));
    Tensor out;
    {
      const Tape::Recording on(&tape);
      out = Tape::record(y, {x}, false, [&](const Tensor& dy) { return dy.labelled(to_x); });
    }
    const Tensor ys[] = {out}, dys[] = {make({2}, 3, dense(rows, rows, rows))};
    if (returned == partial)
      tape.backward(ys, dys);
    else
      expect_error([&] { tape.backward(ys, dys); },
                   {"backward: the gradient", "tp:replicated", name(returned), "tp:partial"});
  }
}

TEST_F(TapeTest, AWrongShapeTypeOrNumberOfReturnedGradientsIsAnError) {
  const auto returning = [&](const Tensors& made) {
    Tape tape;
    const Tensor x = tape.watch(make({2}, 1));
    {
      const Tape::Recording on(&tape);
      Tape::record(Tensors{make({2}, 2)}, {x}, false,
                   [&](std::span<const Tensor>) { return made; });
    }
    tape.backward();
  };
  returning({make({2}, 1)});
  returning({Tensor()});
  expect_error([&] { returning({make({3}, 1)}); }, {"backward: the gradient", "[2]", "[3]"});
  expect_error([&] { returning({Tensor::zeros({2}, DType::f32, device)}); }, {"f64", "f32"});
  expect_error([&] { returning({}); }, {"0 gradients for 1 inputs"});
  expect_error([&] { returning({make({2}, 1), make({2}, 1)}); }, {"2 gradients for 1 inputs"});
}

TEST_F(TapeTest, AWrongLabelOfAGivenGradientIsAnError) {
  Tape tape;
  const Tensor x = tape.watch(make({2}, 1, dense(replicated, rows, rows)));
  const Tensor xs[] = {x}, dys[] = {make({2}, 3, dense(replicated, rows, rows))};
  expect_error([&] { tape.backward(xs, dys); }, {"backward", "wanted tp:partial"});
  expect_error([&] { tape.backward(xs, {}); }, {"1 tensors, 0 gradients"});
}

TEST_F(TapeTest, AThrowInBackwardEndsItsDeferral) {
  Tape tape;
  const Tensor x = tape.watch(make({2}, 1));
  {
    const Tape::Recording on(&tape);
    Tape::record(Tensors{make({2}, 2)}, {x}, false,
                 [](std::span<const Tensor>) -> Tensors { throw Error("on purpose"); });
  }
  std::vector<Tape::Work> deferred;
  expect_error([&] { tape.backward({}, {}, &deferred); }, {"on purpose"});
  bool has_run = false;
  Tape::weight_work([&] { has_run = true; });
  EXPECT_TRUE(has_run);
  EXPECT_TRUE(deferred.empty());
}

TEST_F(TapeTest, ATensorThatIsNotWatchedHasNoGradient) {
  Tape tape;
  expect_error([&] { static_cast<void>(tape.gradient(make({2}, 1))); }, {"not watched", "[2]"});
}

TEST_F(TapeTest, AGradientIsMovedOut) {
  Tape tape;
  const Tensor x = tape.watch(make({2}, 1));
  const Tensor xs[] = {x}, dys[] = {make({2}, 3)};
  tape.backward(xs, dys);
  EXPECT_EQ(tape.gradient(x).to_vector<double>(), dys[0].to_vector<double>());
  EXPECT_EQ(tape.gradient(x).to_vector<double>(), std::vector<double>(2, 0.0));
}

}  // namespace
}  // namespace pf
