#include "core/purpose.h"

#include <gtest/gtest.h>

#include "core/backend.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/tape.h"

namespace pf {
namespace {

TEST(Purpose, IsOfTheInnermostScope) {
  EXPECT_EQ(PurposeScope::current("f"), (Purpose{"other", "f", false}));
  const PurposeScope outer("mlp");
  {
    const PurposeScope inner(Purpose{"head", "g", true});
    EXPECT_EQ(PurposeScope::current("f"), (Purpose{"head", "g", true}));
    const PurposeScope part(parts::buffers);
    EXPECT_EQ(PurposeScope::current("f"), (Purpose{"buffers", "g", true}));
  }
  EXPECT_EQ(PurposeScope::current("f"), (Purpose{"mlp", "f", false}));
}

TEST(Purpose, APeakIsTheSumOfWhatWasLiveThen) {
  Device device(make_meta_backend(make_cpu_backend(1)));
  const Purpose a{"a", "f"}, b{"b", "g"};
  device.allocate(100, a);
  device.allocate(50, b);
  EXPECT_EQ(device.at_peak(), (BytesByPurpose{{a, 100}, {b, 50}}));
  device.release(nullptr, 100, a);
  device.allocate(60, b);
  EXPECT_EQ(device.memory().peak, 150u);
  EXPECT_EQ(device.at_peak(), (BytesByPurpose{{a, 100}, {b, 50}}));
  EXPECT_EQ(device.live(), (BytesByPurpose{{a, 0}, {b, 110}}));
  EXPECT_EQ(device.memory_of("a").peak, 100u);
  EXPECT_EQ(device.memory_of("b").live, 110u);
  EXPECT_EQ(device.memory_of("c").peak, 0u);
  device.allocate(80, b);
  EXPECT_EQ(device.at_peak(), (BytesByPurpose{{a, 0}, {b, 190}}));
  device.release(nullptr, 190, b);
  device.restart_peak();
  device.allocate(1, a);
  EXPECT_EQ(device.at_peak(), (BytesByPurpose{{a, 1}, {b, 0}}));
  EXPECT_EQ(device.memory_of("b").peak, 0u);
}

// Of forward its op; of backward the op that is undone, of the part that it was made in.
TEST(Purpose, OfATapeIsThatOfItsOps) {
  Device device(make_meta_backend(make_cpu_backend(1)));
  Tape tape;
  const Tensor x = tape.watch(Tensor::empty({4, 8}, DType::f32, device));
  Tensor y;
  {
    const Tape::Recording on(&tape);
    const PurposeScope of_part("mlp");
    y = activation(x, ActivationKind::gelu);
  }
  EXPECT_EQ(device.live().at({"mlp", "activation", false}), 4 * 8 * 4u);
  const Tensor ys[] = {y}, dys[] = {Tensor::gradient_like(y)};
  device.restart_peak();
  tape.backward(ys, dys);
  EXPECT_EQ(device.at_peak().at({"mlp", "activation", true}), 4 * 8 * 4u);
}

TEST(Purpose, GoesWithMemoryThatIsTaken) {
  Device device(make_meta_backend(make_cpu_backend(1)));
  Tensor x = Tensor::empty({8}, DType::f32, device, {}, "x");
  Tensor y = Tensor::empty({8}, DType::f32, device, {}, "y");
  x.drop_data();
  x.take_data(y);
  y = {};
  EXPECT_EQ(device.live().at({"other", "y", false}), 32u);
  x = {};
  EXPECT_EQ(device.live().at({"other", "y", false}), 0u);
  EXPECT_EQ(device.live().at({"other", "x", false}), 0u);
}

}  // namespace
}  // namespace pf
