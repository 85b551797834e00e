// The sums of gradients over the ranks that hold the same weights, made while backward goes on.
#pragma once

#include <memory>
#include <vector>

#include "core/parameter.h"
#include "parallel/mesh.h"

namespace pf {

// Which axes a gradient is summed over follows from the parameter's label alone: those on which it
// is replicated. The gradients of one layer with one such set of axes lie side by side in one flat
// bucket, which is reduced as an all_to_all of slices, summed in rank order, then gathered. What
// the other ranks sent is held for two layers at a time: start() waits for the layer before the
// last one.
class Gradients {
 public:
  // layers[i]: the trainable parameters of layer i, which have values. Gives each parameter's
  // gradient its place. Mesh and parameters must outlive this.
  Gradients(const Mesh& mesh, const std::vector<std::vector<Parameter*>>& layers);
  ~Gradients();
  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;

  // Before the first micro-batch of a step.
  void clear();
  // The last micro-batch's weight work of this layer has run: its buckets start to travel. A
  // parameter that this rank never used joins with zeros. All ranks call it in the same order.
  void start(std::size_t layer);
  // Ends all sums. Returns the norm of the whole model's gradient: every logical element once,
  // whatever is replicated; the same on every rank, and not finite if a gradient is not.
  double finish();

 private:
  struct Bucket;
  // The sum of squares of all gradients that the ranks hold in one way; f64, with the label of
  // that.
  using Squares = Tensor;

  std::size_t squares_of(const Parameter& parameter);
  void scatter(Bucket& bucket);
  void reduce(Bucket& bucket);
  void poll();
  double norm() const;

  const Mesh* mesh_;
  std::vector<std::vector<std::unique_ptr<Bucket>>> layers_;
  std::vector<Squares> squares_;
  std::vector<std::size_t> started_;  // layers, in order; the first `reduced_` are summed
  std::size_t reduced_ = 0;
};

}  // namespace pf
