// A Tape lists what a forward pass did, so that it can be undone once, backwards.
//
// It is a plain value: a pipeline stage keeps one per micro-batch and layer. Running forward with
// no tape recording saves nothing, which is how evaluation, generation and zeroth-order training
// run. Nodes are undone in exactly the reverse order, also where a gradient is absent (then it is
// zero), so every rank issues the collectives of backward in the same order without coordination.
#pragma once

#include <functional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace pf {

using Segment = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

struct GradientTarget;

class Tape {
 public:
  using Work = std::function<void()>;
  // From the gradients of all outputs to those of all inputs; an empty tensor stands for no
  // gradient.
  using Backward = std::function<std::vector<Tensor>(std::span<const Tensor> dys)>;

  // Ops run on this thread record onto `tape` while a Recording lives; nullptr pauses.
  class Recording {
   public:
    explicit Recording(Tape* tape) : previous_(std::exchange(current_, tape)) {}
    ~Recording() { current_ = previous_; }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Tape* previous_;
  };

  Tape();

  // Marks x as an input whose gradient will be asked for.
  Tensor watch(const Tensor& x);

  // Undoes everything, from the roots and from the gradient dys[i] of ys[i]. With `deferred`, work
  // that only makes weight gradients is appended there instead of being run. Throws if a gradient's
  // label, shape or type is not the dual of its tensor's.
  void backward(std::span<const Tensor> ys = {}, std::span<const Tensor> dys = {},
                std::vector<Work>* deferred = nullptr);
  // The same from one gradient, which is not kept by the caller.
  void backward_from(const Tensor& y, Tensor dy, std::vector<Work>* deferred = nullptr);

  // The gradient that backward() left for a watched tensor; zeros if none came. It is moved out.
  Tensor gradient(const Tensor& x);

  std::size_t size() const { return nodes_.size(); }

  // A scalar that backward starts at, with 1: a loss, or an auxiliary loss of a layer. Throws
  // unless it is invariant or partial on every axis.
  static void root(const Tensor& loss);

  static bool is_recording() { return current_ != nullptr; }

  // For ops: records outputs = op(inputs), if a tape is recording and an input or a weight wants a
  // gradient. Returns the outputs, marked. Constant outputs are left alone. What `backward`
  // allocates is of this op, of the part of the program that is ambient now (core/purpose.h).
  static std::vector<Tensor> record(std::vector<Tensor> outputs, const std::vector<Tensor>& inputs,
                                    bool has_weights, Backward backward,
                                    const char* op = __builtin_FUNCTION());
  // One output; `backward` takes dy and returns one tensor or a vector of them.
  template <class Undo>
  static Tensor record(const Tensor& output, const std::vector<Tensor>& inputs, bool has_weights,
                       Undo undo, const char* op = __builtin_FUNCTION());

  // For the backward of an op whose kernel can add: where the gradient of its input x goes, which
  // is then returned. It `adds` to what ops that used x later have left, if nothing else holds
  // that.
  static GradientTarget gradient_target(const Tensor& x);
  // The same without x: what is there to add to, or an empty tensor. `slot`: x's.
  static Tensor take_sum(const Slot& slot);

  // For models: gives the memory of x back, which nothing reads any more but the backward of ops
  // recorded so far, and makes it again before the last of them is undone. `make` is pure and gives
  // what x was. Without a tape that saves there is nothing to do.
  static void rebuild(const Tensor& x, std::function<Tensor()> make);

  // For ops: runs `work` now, or later if this backward pass defers weight gradients.
  static void weight_work(Work work);

 private:
  // What must be known of a tensor to check and to make its gradient; it keeps no data alive.
  struct Outline {
    int slot = -1;  // -1: wants no gradient
    Shape shape;
    DType type = DType::f32;
    Label label;
    Device* device = nullptr;
  };
  struct Node {
    std::vector<Outline> inputs, outputs;
    Backward backward;
    Purpose purpose = {};  // of what backward allocates
  };

  int find(const Tensor& x) const;
  Outline outline(const Tensor& x) const;
  static Tensor zeros(const Outline& x);
  void add(const Outline& x, Tensor gradient);
  void undo(std::vector<Work>* deferred);
  friend std::vector<Tensor> recompute(const Segment& segment, std::vector<Tensor> inputs);

  std::uint64_t serial_;
  bool saves_ = true;  // false: a recompute's first run
  std::vector<Node> nodes_;
  std::vector<Tensor> gradients_;
  std::vector<Outline> roots_;

  static inline thread_local Tape* current_ = nullptr;
  static inline thread_local Tape* undone_ = nullptr;  // by backward()
  static inline thread_local std::vector<Work>* deferred_ = nullptr;
};

// Runs `segment` without saving its insides; backward runs it again first. `segment` must be pure.
std::vector<Tensor> recompute(const Segment& segment, std::vector<Tensor> inputs);

template <class Undo>
Tensor Tape::record(const Tensor& output, const std::vector<Tensor>& inputs, bool has_weights,
                    Undo undo, const char* op) {
  Backward backward = [undo = std::move(undo)](std::span<const Tensor> dys) {
    if constexpr (std::is_same_v<std::invoke_result_t<const Undo&, const Tensor&>, Tensor>)
      return std::vector<Tensor>{undo(dys[0])};
    else
      return undo(dys[0]);
  };
  return record(std::vector<Tensor>{output}, inputs, has_weights, std::move(backward), op)[0];
}

}  // namespace pf
