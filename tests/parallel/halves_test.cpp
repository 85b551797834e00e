// Collectives in two halves, with other work between them.
#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "parallel/table.h"
#include "tests/parallel/matrix.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;

// Rank 0 tells rank 1, who waits for that.
void tell_or_hear(const Mesh& mesh, int rank) {
  if (mesh.rank() != rank) return;
  std::byte word{};
  Communicator& communicator = mesh.communicator();
  const Call call{"word", axes::dp, DType::u8, {1}, false, {}};
  if (rank == 0)
    communicator.send(1, call, {&word, 1})->wait();
  else
    communicator.receive(0, call, {&word, 1})->wait();
}

Tensor whose_backward(const Tensor& x, const std::function<void()>& work) {
  return Tape::record(x.detached().labelled(x.label()), {x}, false, [work](const Tensor& dy) {
    work();
    return dy;
  });
}

// Rank 1 starts, in forward and in backward, when it hears what rank 0 tells between both halves:
// one that waited in the first half would wait for ever, which is an error.
void expect_work_between(const std::function<Moving(const Tensor& x, const Mesh& mesh)>& start) {
  in_ranks(2, [&](const Mesh& mesh) {
    const Label label = dense(rows, rows, rows);
    Tape tape;
    const Tensor x = tape.watch(tensor(random(4, 3, 1), mesh.device(), label));
    Tensor between, y;
    {
      const Tape::Recording recording(&tape);
      tell_or_hear(mesh, 1);
      Moving moving = start(x, mesh);
      between = whose_backward(x, [&] { tell_or_hear(mesh, 0); });
      tell_or_hear(mesh, 0);
      y = whose_backward(moving.arrive(), [&] { tell_or_hear(mesh, 1); });
      EXPECT_THROW(moving.arrive(), Error);
    }
    const Tensor ys[] = {between, y},
                 dys[] = {
                     Tensor::zeros(x.shape(), DType::f64, mesh.device(), label),
                     Tensor::zeros(y.shape(), DType::f64, mesh.device(), gradient_of(y.label()))};
    tape.backward(ys, dys);
  });
}

TEST(Halves, OthersWorkBetweenThemInForwardAndInBackward) {
  expect_work_between(
      [](const Tensor& x, const Mesh& mesh) { return start_all_gather(x, mesh, axes::dp); });
  expect_work_between([](const Tensor& x, const Mesh& mesh) {
    const Rows counts = mesh.rank() == 0 ? Rows{1, 3} : Rows{3, 1};
    return start_all_to_all(x, mesh, axes::dp, {counts, counts}, rows, experts);
  });
}

TEST(Halves, OneThatNeverArrivedIsAnErrorOfBackward) {
  const Matrix numbers = random(4, 3, 1);
  EXPECT_THROW(in_ranks(2,
                        [&](const Mesh& mesh) {
                          const Label label = dense(rows, rows, rows);
                          Tape tape;
                          const Tensor x = tape.watch(tensor(numbers, mesh.device(), label));
                          {
                            const Tape::Recording recording(&tape);
                            start_all_gather(x, mesh, axes::dp);
                          }
                          tape.backward();
                        }),
               Error);
}

}  // namespace
}  // namespace pf
