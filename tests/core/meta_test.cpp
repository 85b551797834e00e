// The meta backend: the same program without numbers has the same shapes and the same bytes.
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "core/ops/routing.h"
#include "core/ops/rows.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using Tensors = std::vector<Tensor>;
using Weight = std::unique_ptr<Parameter>;

// What can be seen of a program after each of its steps.
struct Trace {
  std::string step;
  std::size_t live = 0, peak = 0;
  friend bool operator==(const Trace&, const Trace&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Trace& trace) {
    return out << trace.step << ": " << trace.live << " live, " << trace.peak << " at the peak";
  }
};

// A small model: embedding, attention with shared keys, an MLP, experts, a loss. Each expert gets
// as many rows.
class Program {
 public:
  Program(Device& device, DType type) : device_(device), type_(type) {}

  std::vector<Trace> run(bool recomputes) {
    for (int step = 0; step < 2; ++step) {
      Tape tape;
      {
        const Tape::Recording on(&tape);
        const Segment segment = [this](std::span<const Tensor> xs) {
          return Tensors{experts(mlp(attend(xs[0])))};
        };
        const Tensor x = seen("embedding", embedding(ids_, *words_, type_));
        head(recomputes ? recompute(segment, {x})[0] : segment(std::vector{x})[0]);
      }
      std::vector<Tape::Work> deferred;
      tape.backward({}, {}, &deferred);
      note("backward");
      for (const Tape::Work& work : deferred) work();
      deferred.clear();
      note("weights");
      for (const Weight* w : {&words_, &norm_, &q_, &k_, &gate_, &head_}) {
        seen((*w)->name(), (*w)->gradient());
        (*w)->changed();
      }
    }
    return traces_;
  }

 private:
  static constexpr std::int64_t tokens = 48, hidden = 32, ffn = 40, experts_ = 4, k = 2, words = 50;
  static constexpr AttentionShape shape_{.heads = 4, .kv_heads = 2, .head_dim = 8, .scale = 0.3};

  void note(const std::string& step) {
    traces_.push_back({step, device_.memory().live, device_.memory().peak});
  }
  Tensor seen(const std::string& step, const Tensor& x) {
    note(step + ' ' + x.text());
    return x;
  }
  Weight weight(const char* name, const Shape& shape) {
    return make_weight(name, shape, device_, {}, type_);
  }

  Tensor attend(const Tensor& x) {
    const Tensor h = seen("norm", rms_norm(x, *norm_));
    const auto qkv = linear(h, qkv_);
    const Tensor q = rope(qkv[0], position_, table_), key = rope(qkv[1], position_, table_);
    const Tensor y =
        seen("attention", attention(q, key, qkv[2], causal_areas(3, tokens / 3), shape_));
    return add(x, dropout(linear(y, out_pack_)[0], 0.1, {1, 2, 3}, token_, hidden));
  }
  Tensor mlp(const Tensor& x) {
    const auto both = linear(x, gate_up_);
    return seen("mlp", add(x, linear(swiglu(both[0], both[1]), down_pack_)[0], x));
  }
  Tensor experts(const Tensor& x) {
    const Tensor logits = linear(cast(x, accumulation(type_)), router_pack_)[0];
    const Routed routed = route(logits, k, {RouterKind::softmax_top_k}, choices_);
    const Plan order = plan(routed.chosen, experts_);
    const Permuted sent = permute(x, routed.weights, order);
    const ExpertRows rows{sent.x, sent.weights, backend(x).read_counts(order.counts, tokens * k)};
    EXPECT_EQ(rows.counts, std::vector<std::int64_t>(experts_, tokens * k / experts_));
    const auto both = grouped_linear(rows, expert_gate_up_);
    const Tensor a = swiglu(both[0], both[1], rows.weights);
    const Tensor y =
        combine(grouped_linear({a, rows.weights, rows.counts}, expert_down_pack_)[0], order);
    Tape::root(square_sum(routed.lse, mask_, 0.1));
    const Tensor f = normalise_rows(count_choices(routed.chosen, mask_, {}, 1, experts_, {}));
    Tape::root(dot(segment_sum(routed.scores, mask_, {}, 1, {}), f, 0.5));
    return seen("experts", scale(add(x, y), 0.5));
  }
  void head(const Tensor& x) {
    std::int64_t begin = 0;
    for (const Tensor& chunk : split_rows(x, 20)) {
      const Tensor logits = linear(chunk, head_pack_)[0], top = row_max(logits);
      const std::int64_t end = begin + chunk.rows();
      const LossParts parts = loss_parts(logits, top, ids_.rows(begin, end), 0, {});
      Tape::root(seen("loss", cross_entropy(parts, top, mask_.rows(begin, end), 1.0 / tokens)));
      begin = end;
    }
  }

  Tensor choices() {
    std::vector<std::int32_t> all;
    for (std::int32_t t = 0; t < tokens; ++t)
      for (std::int32_t e : {t % 2, t % 2 + 2}) all.push_back(e);
    return tensor_of(all, {tokens, k}, device_);
  }
  Tensor numbers() {
    std::vector<std::int64_t> all;
    for (std::int64_t t = 0; t < tokens; ++t) all.push_back(t);
    return tensor_of(all, {tokens}, device_);
  }

  Device& device_;
  DType type_;
  std::vector<Trace> traces_;
  Weight words_ = weight("words", {words, hidden}), norm_ = weight("norm", {hidden}),
         q_ = weight("q", {32, hidden}), k_ = weight("k", {16, hidden}),
         v_ = weight("v", {16, hidden}), out_ = weight("out", {hidden, 32}),
         gate_ = weight("gate", {ffn, hidden}), up_ = weight("up", {ffn, hidden}),
         down_ = weight("down", {hidden, ffn}), router_ = weight("router", {experts_, hidden}),
         expert_gate_ = weight("expert gate", {experts_, ffn, hidden}),
         expert_up_ = weight("expert up", {experts_, ffn, hidden}),
         expert_down_ = weight("expert down", {experts_, hidden, ffn}),
         head_ = weight("head", {words, hidden});
  Pack qkv_{"qkv", {q_.get(), k_.get(), v_.get()}}, out_pack_{"out", {out_.get()}},
      gate_up_{"gate_up", {gate_.get(), up_.get()}}, down_pack_{"down", {down_.get()}},
      router_pack_{"router", {router_.get()}},
      expert_gate_up_{"expert gate_up", {expert_gate_.get(), expert_up_.get()}},
      expert_down_pack_{"expert down", {expert_down_.get()}}, head_pack_{"head", {head_.get()}};
  Tensor ids_ = ids_of(std::vector<std::int32_t>(tokens, 3), device_),
         position_ = ids_of(std::vector<std::int32_t>(tokens, 2), device_), token_ = numbers(),
         choices_ = choices(),
         table_ = rope_table(16, rope_frequencies(8, 100, {}, 16), type_, device_),
         mask_ = Tensor::zeros({tokens}, accumulation(type_), device_).detached();
};

TEST(Meta, HasTheShapesAndBytesOfTheCpuAfterEveryStep) {
  for (DType type : {DType::f64, DType::f32, DType::bf16})
    for (int workers : {1, 3})
      for (bool recomputes : {false, true}) {
        Device cpu(make_cpu_backend(workers)), meta(make_meta_backend(make_cpu_backend(workers)));
        const auto wanted = Program(cpu, type).run(recomputes),
                   found = Program(meta, type).run(recomputes);
        EXPECT_EQ(found, wanted) << name(type);
        EXPECT_EQ(meta.memory().live, cpu.memory().live);
        EXPECT_GT(cpu.memory().peak, 100'000u);
      }
}

TEST(Meta, SharesCountsOutEvenly) {
  Device meta(make_meta_backend(make_cpu_backend(1)));
  const Tensor counts = Tensor::empty({4}, DType::i64, meta);
  EXPECT_EQ(meta.backend().read_counts(counts, 10), (std::vector<std::int64_t>{3, 3, 2, 2}));
  EXPECT_EQ(meta.backend().read_counts(counts, 0), (std::vector<std::int64_t>{0, 0, 0, 0}));
}

TEST(Meta, NamesItsTarget) {
  const auto meta = make_meta_backend(make_cpu_backend(2));
  EXPECT_EQ(meta->description(), "meta of " + make_cpu_backend(2)->description());
}

TEST(Meta, ElementsReadAsZeros) {
  Device meta(make_meta_backend(make_cpu_backend(1)));
  EXPECT_EQ(Tensor::scalar(5, DType::f32, meta).item(), 0);
}

}  // namespace
}  // namespace pf
