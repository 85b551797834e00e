// The kernels of a device. The one virtual seam between ops and hardware.
//
// Kernels never allocate and never check: ops do both, and hand over workspaces as big as the
// backend's *_workspace() says, in bytes. What is written is the first argument. Activations are
// f64, f32 or bf16; statistics, weights' values, gradients and sums are accumulation(dtype) unless
// said otherwise. Two-dim tensors may have a pitch; others are contiguous. Rows are tokens.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/philox.h"
#include "core/tensor.h"

namespace pf {

// Which keys a query sees: one rectangle of the score matrix. `causal` keeps what is not after the
// diagonal through the rectangle's bottom-right corner, `inverse_causal` what is not before the one
// through its top-left corner, `both` both. Ranges are row numbers of q and of k; the areas of one
// attention are disjoint.
struct Area {
  enum class Kind : std::uint8_t { full, causal, inverse_causal, both };
  std::int64_t q_begin = 0, q_end = 0, k_begin = 0, k_end = 0;
  Kind kind = Kind::full;
};

// q [tokens, heads * head_dim], k and v [keys, kv_heads * head_dim]; query head h sees KV head
// h / (heads / kv_heads). Scores are scale * q . k. Where value_dim is given, v is [keys, kv_heads
// * value_dim] and so is the output's head.
struct AttentionShape {
  std::int64_t heads = 1, kv_heads = 1, head_dim = 1;
  double scale = 1;
  std::int64_t value_dim = 0;  // 0: head_dim

  std::int64_t values() const { return value_dim > 0 ? value_dim : head_dim; }
};

// GELU is x Phi(x), or its approximation by tanh (Hendrycks and Gimpel 2016, section 2).
enum class ActivationKind : std::uint8_t { gelu, gelu_tanh, relu, sigmoid };

// Scores are a softmax over all experts, or sigmoids divided by their sum. Weights of the chosen
// are their scores (softmax_top_k), the softmax of their logits (top_k_softmax), or their sigmoids,
// divided by the sum of the chosen ones where k > 1 (sigmoid_top_k; DeepSeek-AI 2024, equation 13).
enum class RouterKind : std::uint8_t { softmax_top_k, top_k_softmax, sigmoid_top_k };
struct Router {
  RouterKind kind = RouterKind::softmax_top_k;
  double scale = 1;  // of the weights
  // Experts lie in `groups` runs of one size. Only those of the `top_groups` best are eligible; a
  // group's worth is the sum of its `group_best` best scores.
  std::int64_t groups = 1, top_groups = 1, group_best = 1;
  // [experts], accumulation type, or empty: added to scores in every choice, but not in the weights
  // (Wang et al. 2024).
  Tensor bias = {};
};

// A weight as the products want it: several weights [groups, out_i, inputs] ([out_i, inputs] where
// groups is 1), stacked along their outputs.
struct Packed {
  std::int64_t groups = 1, inputs = 0, outputs = 0;
  DType type = DType::f32;    // of the products' operands
  std::vector<Tensor> parts;  // the values, accumulation type
  Tensor forward, backward;   // u8, blocked for x w' and for dy w; empty: products read the values
};

// Where a gradient goes: overwritten, or added to what is there.
struct GradientTarget {
  Tensor tensor;
  bool adds = false;
};

// One AdamW step (Loshchilov and Hutter 2019, algorithm 2). Gradients are multiplied by
// gradient_scale before anything else; corrections are 1 - beta^step.
struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0;
  double correction1 = 1, correction2 = 1, gradient_scale = 1;
};
struct AdamWTensor {
  Tensor value, first, second, gradient;  // all of one shape and of the accumulation type
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string description() const = 0;  // "cpu, 2 threads, avx512 amx_bf16"

  // Memory is the first part of a range of addresses, from commit() on.
  virtual std::size_t range_bytes() const = 0;   // that are worth reserving at a time
  virtual void* reserve(std::size_t bytes) = 0;  // 64-byte aligned; null if there is no such range
  // The first `end` bytes of a range can be used, as `begin` of them could before; false when
  // memory is out.
  virtual bool commit(void* range, std::size_t begin, std::size_t end) = 0;
  virtual void release(void* range, std::size_t bytes) = 0;

  // --- Elementwise -------------------------------------------------------------------------------
  virtual void fill(const Tensor& y, double value) = 0;     // any dtype
  virtual void copy(const Tensor& y, const Tensor& x) = 0;  // casts between floating types
  virtual void add(const Tensor& y, std::span<const Tensor> xs) = 0;  // y may be one of xs
  virtual void scale(const Tensor& y, const Tensor& x, double factor) = 0;
  // y = silu(gate) * up [* row]: gate, up [n, ffn]; row [n], accumulation type, or empty.
  virtual void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, const Tensor& row) = 0;
  // Writes what y was too, unless it is empty. y may be dy, and dgate and dup may be gate and up.
  virtual void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& drow,
                               const Tensor& y, const Tensor& dy, const Tensor& gate,
                               const Tensor& up, const Tensor& row) = 0;
  virtual void activation(const Tensor& y, const Tensor& x, ActivationKind kind) = 0;
  virtual void activation_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                                   ActivationKind kind) = 0;
  // y = x + row in each row: row [columns], accumulation type. And the sums of dy's columns.
  virtual void add_row(const Tensor& y, const Tensor& x, const Tensor& row) = 0;
  virtual void add_row_backward(const GradientTarget& drow, const Tensor& dy) = 0;
  // Keeps element (r, c) with probability 1 - p, scaled by 1 / (1 - p): its number is
  // random.uniform(token[r] * width + first_column + c). token [n] i64. Its own backward.
  virtual void dropout(const Tensor& y, const Tensor& x, double p, const Random& random,
                       const Tensor& token, std::int64_t width, std::int64_t first_column) = 0;
  // Element `index` of the block of `whole` that starts at `begin` is std * random.normal(its
  // global row-major index). y is of the accumulation type.
  virtual void normal(const Tensor& y, const Random& random, double std, const Shape& whole,
                      std::span<const std::int64_t> begin) = 0;

  // --- Products ----------------------------------------------------------------------------------
  // Sizes of w.forward and w.backward for this backend; 0 when products read the values.
  virtual std::size_t packed_bytes(const Packed& w) = 0;
  virtual std::size_t pack_workspace(const Packed& w) = 0;
  virtual void pack(Packed& w, const Tensor& work) = 0;  // from w.parts
  // Rows of x are sorted by group, counts[g] of group g (one count for a plain product).
  // y [n, outputs], x [n, inputs], dtype w.type. y may be wider in dtype (f32 of bf16 operands).
  virtual std::size_t product_workspace(std::int64_t rows, const Packed& w) = 0;
  virtual void product(const Tensor& y, const Tensor& x, const Packed& w,
                       std::span<const std::int64_t> counts, const Tensor& work) = 0;
  virtual void product_input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                                      std::span<const std::int64_t> counts, const Tensor& work) = 0;
  // dws[i] like w.parts[i]: dw[g] (+)= dy[g]' x[g]. A group without rows adds, or sets, zeros. Of w
  // the type and extents alone are read.
  virtual void product_weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                       const Tensor& x, const Packed& w,
                                       std::span<const std::int64_t> counts,
                                       const Tensor& work) = 0;

  // --- Rows --------------------------------------------------------------------------------------
  // y[r] = w[ids[r] - first], zero where that row is not here. ids [n] i32; w values; y [n, dim].
  virtual void embedding(const Tensor& y, const Tensor& ids, const Tensor& w,
                         std::int64_t first) = 0;
  virtual void embedding_backward(const GradientTarget& dw, const Tensor& ids, const Tensor& dy,
                                  std::int64_t first) = 0;
  // Over groups of w.size() columns (the whole row, or each head of it). scale [n, groups] = 1 /
  // rms.
  virtual void rms_norm(const Tensor& y, const Tensor& scale, const Tensor& x, const Tensor& w,
                        double eps) = 0;
  virtual std::size_t rms_norm_workspace(const Tensor& x, const Tensor& w) = 0;
  virtual void rms_norm_backward(const GradientTarget& dx, const GradientTarget& dw,
                                 const Tensor& dy, const Tensor& x, const Tensor& scale,
                                 const Tensor& w, const Tensor& work) = 0;
  // statistics [n, 2]: mean and 1 / standard deviation. The workspace is for x and w alone.
  virtual void layer_norm(const Tensor& y, const Tensor& statistics, const Tensor& x,
                          const Tensor& w, const Tensor& b, double eps) = 0;
  virtual std::size_t layer_norm_workspace(const Tensor& x, const Tensor& w) = 0;
  virtual void layer_norm_backward(const GradientTarget& dx, const GradientTarget& dw,
                                   const GradientTarget& db, const Tensor& dy, const Tensor& x,
                                   const Tensor& statistics, const Tensor& w,
                                   const Tensor& work) = 0;
  // Head h of y is a's head h, then b's head h, or b's only head: a [n, heads * da], b [n, heads *
  // db] or [n, db], y [n, heads * (da + db)]. And back, where the only head's gradients are summed.
  virtual void join_heads(const Tensor& y, const Tensor& a, const Tensor& b,
                          std::int64_t heads) = 0;
  virtual void join_heads_backward(const Tensor& da, const Tensor& db, const Tensor& dy,
                                   std::int64_t heads) = 0;
  // Turns pairs (c, c + head_dim / 2) of each head by the angle of the row's position (Su et al.
  // 2021), or back. position [n] i32; table [positions, head_dim]: cos then sin, accumulation type.
  virtual void rope(const Tensor& y, const Tensor& x, const Tensor& position, const Tensor& table,
                    bool inverse) = 0;
  // y[r] = x[order[r] / per], zeros where order[r] is -1; backward of sum_rows. order [m] i32.
  virtual void take_rows(const Tensor& y, const Tensor& x, const Tensor& order,
                         std::int64_t per) = 0;
  // y[t] (+)= sum over j < per of x[place[t * per + j]] but for places of -1; backward of
  // take_rows. place [n * per] i32.
  virtual void sum_rows(const GradientTarget& y, const Tensor& x, const Tensor& place,
                        std::int64_t per) = 0;

  // --- Attention ---------------------------------------------------------------------------------
  // Never holds more than blocks of scores. lse [tokens, heads] is the log of each row's sum of
  // exponentials; a row that sees nothing gives y = 0 and lse = -inf. What is written may be of the
  // accumulation type. Backward takes lse and y of all keys that a query sees, of which k and v may
  // be a part.
  virtual std::size_t attention_workspace(const Tensor& q, const Tensor& k,
                                          std::span<const Area> areas,
                                          const AttentionShape& shape) = 0;
  virtual void attention(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k,
                         const Tensor& v, std::span<const Area> areas, const AttentionShape& shape,
                         const Tensor& work) = 0;
  virtual std::size_t attention_backward_workspace(const Tensor& q, const Tensor& k,
                                                   std::span<const Area> areas,
                                                   const AttentionShape& shape) = 0;
  virtual void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                  const Tensor& dy, const Tensor& y, const Tensor& lse,
                                  const Tensor& q, const Tensor& k, const Tensor& v,
                                  std::span<const Area> areas, const AttentionShape& shape,
                                  const Tensor& work) = 0;
  // y [tokens, heads * value_dim] and lse [tokens, heads] over some keys become those over the keys
  // of part_y and part_lse as well: lse' = log(exp(lse) + exp(part_lse)), y' = y + (part_y - y)
  // exp(part_lse - lse'). All of the accumulation type.
  virtual void merge_attention(const Tensor& y, const Tensor& lse, const Tensor& part_y,
                               const Tensor& part_lse) = 0;

  // --- Routing -----------------------------------------------------------------------------------
  // From logits [n, experts] (accumulation type): scores [n, experts]; lse [n] of the logits;
  // chosen [n, k] i32, ascending, the k best eligible (ties: the lower number); weights [n, k]. See
  // Router.
  virtual void route(const Tensor& scores, const Tensor& weights, const Tensor& lse,
                     const Tensor& chosen, const Tensor& logits, const Router& router) = 0;
  // `chosen` is given: weights, scores and lse as above for a routing decided before.
  virtual void route_again(const Tensor& scores, const Tensor& weights, const Tensor& lse,
                           const Tensor& chosen, const Tensor& logits, const Router& router) = 0;
  // logits are read for sigmoid_top_k alone.
  virtual void route_backward(const Tensor& dlogits, const Tensor& dscores, const Tensor& dweights,
                              const Tensor& dlse, const Tensor& scores, const Tensor& weights,
                              const Tensor& chosen, const Tensor& logits, const Router& router) = 0;
  // chosen [n, k] = the experts token * k + 0 ... k-1 modulo `experts`, ascending. token [n] i64.
  virtual void forced_choice(const Tensor& chosen, const Tensor& token, std::int64_t experts) = 0;
  // kept = chosen, but -1 where in a run of `block` rows `capacity` choices of the same expert have
  // a larger weight, or as large a one and a lower row.
  virtual void drop_choices(const Tensor& kept, const Tensor& chosen, const Tensor& weights,
                            std::int64_t block, std::int64_t capacity, std::int64_t experts) = 0;
  // part = chosen - first where that is 0 ... count - 1, elsewhere -1. Both [n, k] i32.
  virtual void choices_of(const Tensor& part, const Tensor& chosen, std::int64_t first,
                          std::int64_t count) = 0;
  // Sorts the n * k choices by expert, stable; those of -1 are left out. order [m] i32: sorted
  // position -> choice (token * k + j); place [n k] i32 its inverse, or -1; counts [experts] i64.
  // With padded > 0 each expert gets that many positions, of which the last may be -1 in order.
  virtual void plan(const Tensor& order, const Tensor& place, const Tensor& counts,
                    const Tensor& chosen, std::int64_t padded) = 0;
  // counts[segment[t], chosen[t, j]] += mask[t], from zero, but for choices of -1. counts
  // [segments, experts], mask [n] of the accumulation type; segment [n] i32, or empty: all in the
  // first.
  virtual void count_choices(const Tensor& counts, const Tensor& chosen, const Tensor& mask,
                             const Tensor& segment) = 0;
  // sums[chosen[t, j]] += mask[t] * scores[t, chosen[t, j]], from zero. sums [1, experts], scores
  // [n, experts] and mask [n] are of the accumulation type.
  virtual void sum_of_chosen(const Tensor& sums, const Tensor& scores, const Tensor& chosen,
                             const Tensor& mask) = 0;

  // --- Losses ------------------------------------------------------------------------------------
  virtual void row_max(const Tensor& top, const Tensor& logits) = 0;  // top [n]
  // exp_sum[r] = sum exp(logits[r] - top[r]); picked[r] = logits[r, target[r] - first], 0 if that
  // column is not here. target [n] i32.
  virtual void loss_parts(const Tensor& exp_sum, const Tensor& picked, const Tensor& logits,
                          const Tensor& top, const Tensor& target, std::int64_t first) = 0;
  virtual void loss_parts_backward(const Tensor& dlogits, const Tensor& dexp_sum,
                                   const Tensor& dpicked, const Tensor& logits, const Tensor& top,
                                   const Tensor& target, std::int64_t first) = 0;
  // loss[] = factor * sum over r of mask[r] * (log(exp_sum[r]) + top[r] - picked[r]).
  virtual void cross_entropy(const Tensor& loss, const Tensor& exp_sum, const Tensor& picked,
                             const Tensor& top, const Tensor& mask, double factor) = 0;
  virtual void cross_entropy_backward(const Tensor& dexp_sum, const Tensor& dpicked,
                                      const Tensor& dloss, const Tensor& exp_sum,
                                      const Tensor& mask, double factor) = 0;
  // y[segment[t], c] = sum over t of mask[t] * x[t, c]; segment as in count_choices.
  virtual void segment_sum(const Tensor& y, const Tensor& x, const Tensor& mask,
                           const Tensor& segment) = 0;
  virtual void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& mask,
                                    const Tensor& segment) = 0;
  // y[] = factor * sum a * b, and da = factor * dy[] * b.
  virtual void dot(const Tensor& y, const Tensor& a, const Tensor& b, double factor) = 0;
  virtual void dot_backward(const Tensor& da, const Tensor& dy, const Tensor& b, double factor) = 0;
  // Each row divided by its sum; a row of zeros stays.
  virtual void normalise_rows(const Tensor& y, const Tensor& x) = 0;
  // y[] = factor * sum mask * x^2, and dx = 2 factor * dy[] * mask * x.
  virtual void square_sum(const Tensor& y, const Tensor& x, const Tensor& mask, double factor) = 0;
  virtual void square_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                                   const Tensor& mask, double factor) = 0;

  // --- Weights -----------------------------------------------------------------------------------
  // y = sum of xs in order, and adds the sum of y's squares, each in f64, to squares[] (f64).
  virtual void reduce(const Tensor& y, std::span<const Tensor> xs, const Tensor& squares) = 0;
  virtual std::size_t adamw_workspace(std::span<const AdamWTensor> tensors,
                                      const Packed* packed) = 0;
  // Changes value, first and second; with `packed`, whose parts are exactly these values, rebuilds
  // its blocked copies in the same pass.
  virtual void adamw(std::span<const AdamWTensor> tensors, const AdamWStep& step, Packed* packed,
                     const Tensor& work) = 0;

  // The one way by which values become shapes: copies small integers to the host; a trace keeps
  // them. Under meta it answers with `total` shared out evenly in each row, or as recorded.
  virtual std::vector<std::int64_t> read_counts(const Tensor& counts, std::int64_t total) = 0;
};

// With `workers` threads; see core/workers.h for `first_processor`.
std::unique_ptr<Backend> make_cpu_backend(int workers, int first_processor = -1);
// What read_counts() gives the next time, for so many counts.
using RecordedCounts = std::function<std::vector<std::int64_t>(std::int64_t size)>;
// Shapes and bytes only. Packs and workspaces are as big as `target` would make them.
std::unique_ptr<Backend> make_meta_backend(std::unique_ptr<Backend> target,
                                           RecordedCounts recorded = {});
// Throws Error where this build or this machine has no CUDA.
std::unique_ptr<Backend> make_cuda_backend(int device);
// "CUDA 13.0, 1 device: NVIDIA H100 80GB", or why there is none.
std::string cuda_description();

}  // namespace pf
