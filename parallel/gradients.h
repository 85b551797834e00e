// The sums of gradients over the ranks that hold the same weights, made while backward goes on, and
// the way of weights from the ranks that change them to those that use them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/parameter.h"
#include "parallel/mesh.h"

namespace pf {

// What the ranks that hold the same weights divide among them instead of each having all of it,
// with what stands before it: stages 1, 2 and 3 of ZeRO (Rajbhandari et al. 2020, section 5).
enum class Divided : std::uint8_t { states, gradients, weights };

struct Sharing {
  // Consecutive ranks of a gradient's sum that divide it, at most; 1: each changes all weights, 0:
  // all ranks of the sum divide it.
  int ranks = 1;
  // Parameters whose matrices (the last two dims) one rank must have as a whole.
  std::function<bool(const Parameter&)> keeps_matrices = [](const Parameter&) { return false; };
  Divided divided = Divided::states;
};

// What this rank changes of a parameter: elements [begin, end), row-major.
struct Part {
  Parameter* parameter = nullptr;
  std::int64_t begin = 0, end = 0;
  // [elements], where this rank keeps no others; else empty.
  Tensor kept_value = {}, kept_gradient = {};
  int replica = 0, replicas = 1;  // of the ranks that change these same elements

  std::int64_t size() const { return end - begin; }
  bool is_whole() const { return size() == parameter->size(); }
  Tensor of(const Tensor& x) const { return x.reshaped({x.size()}).rows(begin, end); }
  // [elements]
  Tensor value() const { return kept_value ? kept_value : of(parameter->value()); }
  Tensor gradient() const { return kept_gradient ? kept_gradient : of(parameter->gradient()); }
};

// What a layer uses of what is trained.
struct LayerWeights {
  std::vector<Parameter*> parameters;
  std::vector<Pack*> packs = {};  // made of them
};

struct GradientBucket;

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
//
// Where gradients are divided, a bucket is there from a layer's first weight work until start(),
// which is called for every micro-batch, has added it to the owners' slices. Where weights are
// divided, a rank has its slices, and all of a layer only within use().
class Gradients {
 public:
  static constexpr std::size_t none = std::size_t(-1);  // no layer

  // While it lives, a layer's weights are here. Must not outlive its Gradients.
  class Use {
   public:
    Use(Gradients& gradients, std::size_t layer) : gradients_(&gradients), layer_(layer) {}
    ~Use() { gradients_->release(layer_); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Gradients* gradients_;
    std::size_t layer_;
  };

  // layers[i]: what layer i uses; a parameter that several use is reduced with the first of them.
  // Gives each parameter's gradient and value its place. `initialise` runs for one layer after the
  // other, so that no rank ever has all values if weights are divided; without it, all parameters
  // have values. Mesh, parameters and packs must outlive this.
  Gradients(const Mesh& mesh, const std::vector<LayerWeights>& layers, const Sharing& sharing = {},
            const std::function<void(std::size_t layer)>& initialise = {});
  ~Gradients();
  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;

  // What this rank changes, in order of layers: everything, or its slices. Elsewhere a gradient is
  // not summed.
  const std::vector<Part>& parts() const { return parts_; }

  // Before the first micro-batch of a step.
  void clear();
  // The weight work of a micro-batch, or of several, has run in this layer; of the last one of the
  // step: `is_last`. Its buckets start to travel, if they do so for each micro-batch or this is the
  // last. A parameter that this rank never used joins with zeros. All ranks of a stage call it in
  // the same order.
  void start(std::size_t layer, bool is_last = true);
  // Ends all sums. Returns the norm of the whole model's gradient: every logical element once,
  // whatever is replicated; the same on every rank, and not finite if a gradient is not.
  double finish();

  // Each rank has changed its parts: the weights start to travel, first layer first, to where they
  // stay.
  void share_values();
  void wait_for_values();
  // Before a layer runs, forward or backward: waits for its weights. `next`: the layer that is used
  // after it, whose weights start to travel, or `none` if that is not known. All ranks of a stage
  // call it in the same order. Nothing to do for layers that were not given.
  [[nodiscard]] Use use(std::size_t layer, std::size_t next);

 private:
  struct Sum;
  struct Layer {
    std::vector<std::unique_ptr<GradientBucket>> buckets;
    std::vector<GradientBucket*> used;  // these, and those of layers before it
    bool is_started = false;            // for the last micro-batch
  };
  // The sum of squares of all gradients that the ranks hold in one way; f64, with the label of
  // that.
  using Squares = Tensor;

  GradientBucket& bucket_of(Layer& layer, Parameter& parameter);
  void allocate(const Layer& layer, const Sharing& sharing);
  void each_bucket(const std::function<void(GradientBucket&)>& f);
  std::size_t squares_of(const Parameter& parameter);
  void start_sums(Layer& layer, bool is_last);
  void scatter(Sum& sum);
  void reduce(Sum& sum);
  void advance(std::size_t most_in_flight);
  void poll();
  void hold(std::size_t layer);
  void release(std::size_t layer);
  void release_prefetched();
  void wait_for_values(GradientBucket& bucket);
  double norm() const;

  const Mesh* mesh_;
  std::vector<Layer> layers_;
  // Parameters that two stages hold (`ends`), whatever their layer: finish() starts them, since
  // those two stages get to them at different times. Only states are divided of them.
  Layer of_two_stages_;
  std::vector<Part> parts_;
  std::vector<Squares> squares_;
  Squares unused_;                         // of sums that are not the last
  std::vector<std::vector<Sum>> started_;  // of one layer each, in order
  // Of those: how many have made their first sum, how many all, and how many, from the first on,
  // are where they go.
  std::size_t summed_ = 0, reduced_ = 0, arrived_ = 0;
  std::optional<std::size_t> prefetched_;  // a layer that is held for its next use
};

}  // namespace pf
