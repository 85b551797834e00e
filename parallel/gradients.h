// The sums of gradients over the ranks that hold the same weights, made while backward goes on, and
// the way back of weights that only one of them changes.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/parameter.h"
#include "parallel/mesh.h"

namespace pf {

// How the ranks that hold the same weights divide the optimizer's work (ZeRO, Rajbhandari et al.
// 2020, section 5.1).
struct Sharing {
  // Consecutive ranks of a gradient's sum that divide it, at most; 1: each changes all weights, 0:
  // all ranks of the sum divide it.
  int ranks = 1;
  // Parameters whose matrices (the last two dims) one rank must have as a whole.
  std::function<bool(const Parameter&)> keeps_matrices = [](const Parameter&) { return false; };
};

// What this rank changes of a parameter: elements [begin, end), row-major.
struct Part {
  Parameter* parameter = nullptr;
  std::int64_t begin = 0, end = 0;

  std::int64_t size() const { return end - begin; }
  bool is_whole() const { return size() == parameter->size(); }
  Tensor of(const Tensor& x) const { return x.reshaped({x.size()}).rows(begin, end); }
};

// Which axes a gradient is summed over follows from the parameter's label alone: those on which it
// is replicated. The gradients of one layer with one such set of axes lie side by side in one flat
// bucket, which is reduced as an all_to_all of slices, summed in rank order, then gathered. What
// the other ranks sent is held for two layers at a time: start() waits for the layer before the
// last one.
//
// With `sharing`, each of n consecutive ranks of the sum owns a slice of the bucket: sums stay with
// their owners, and weights, which lie flat too, are gathered once they changed. Where the sum has
// more than n ranks, a slice is summed over its n ranks' groups next (hybrid: what travels between
// groups is an n-th).
class Gradients {
 public:
  // layers[i]: the trainable parameters of layer i, which have values. Gives each parameter's
  // gradient (and value, where it is shared) its place. Mesh and parameters must outlive this.
  Gradients(const Mesh& mesh, const std::vector<std::vector<Parameter*>>& layers,
            const Sharing& sharing = {});
  ~Gradients();
  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;

  // What this rank changes, in order of layers: everything, or its slices. Elsewhere a gradient is
  // not summed.
  const std::vector<Part>& parts() const { return parts_; }

  // Before the first micro-batch of a step.
  void clear();
  // The last micro-batch's weight work of this layer has run: its buckets start to travel. A
  // parameter that this rank never used joins with zeros. All ranks call it in the same order.
  void start(std::size_t layer);
  // Ends all sums. Returns the norm of the whole model's gradient: every logical element once,
  // whatever is replicated; the same on every rank, and not finite if a gradient is not.
  double finish();

  // Each rank has changed its parts: the weights start to travel, first layer first.
  void share_values();
  // Before a layer's weights are used, and before this ends: they are here. Nothing to wait for in
  // layers that were not given.
  void wait_for_values(std::size_t layer);
  void wait_for_values();

 private:
  struct Bucket;
  // The sum of squares of all gradients that the ranks hold in one way; f64, with the label of
  // that.
  using Squares = Tensor;

  void place(Parameter& parameter, std::size_t layer);
  std::size_t squares_of(const Parameter& parameter);
  void start_sums(std::size_t layer);
  void scatter(Bucket& bucket);
  void reduce(Bucket& bucket);
  void advance(std::size_t most_in_flight);
  void poll();
  double norm() const;

  const Mesh* mesh_;
  // The last entry is of parameters that two stages hold (`ends`), whatever their layer: it is
  // started by finish(), since those two stages get to it at different times.
  std::vector<std::vector<std::unique_ptr<Bucket>>> layers_;
  std::vector<Part> parts_;
  std::vector<Squares> squares_;
  Squares unused_;                    // of sums that are not the last
  std::vector<std::size_t> started_;  // layers, in order
  // Of those: how many have made their first sum, and how many all.
  std::size_t summed_ = 0, reduced_ = 0;
};

}  // namespace pf
