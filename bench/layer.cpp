// One whole layer at the peer's sizes: attention and experts (or a dense MLP), forward, backward,
// AdamW. Prints one JSON line; bench/layer.sh runs it beside bench/layer.py, the same layer in
// PyTorch.
//   layer moe|dense bf16|f32 THREADS SEQUENCE STEPS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "launch/gemm_rate.h"
#include "models/balance.h"
#include "models/stage.h"
#include "models/transformer.h"
#include "optim/adamw.h"
#include "parallel/communicator.h"

namespace pf {
namespace {

constexpr std::int64_t tokens = 4096;

config::Model peer(const std::string& kind) {
  config::Model model;
  model.set_layers(1);
  model.set_vocabulary(256);
  model.set_hidden(256);
  model.set_heads(4);
  model.set_kv_heads(2);
  model.set_head_dim(64);
  model.set_ffn(1024);
  if (kind == "moe") {
    config::Moe& moe = *model.mutable_moe();
    moe.set_experts(8);
    moe.set_top_k(2);
    moe.set_ffn(384);
    moe.set_shared_ffn(384);
    moe.mutable_balance()->set_kind(config::Balance::micro);
  }
  return model;
}

struct Layer1 {
  Device device;
  FakeCommunicator alone{0, 1};
  Mesh mesh{alone, device};
  Transformer model;
  DType type;

  Layer1(const std::string& kind, DType t, int threads, std::int64_t sequence)
      : device(make_cpu_backend(threads, 0)),
        model(peer(kind), {sequence, 1024, t}, mesh),
        type(t) {
    model.initialise(1);
  }
  Layer& layer() { return *model.layers()[1]; }
};

// Median seconds of a step.
double measure(Layer1& one, std::int64_t sequence, int steps) {
  const auto visit = [&](const Visitor& visitor) { one.layer().visit(visitor); };
  std::vector<Parameter*> weights;
  visit({.parameter = [&](Parameter& w) { weights.push_back(&w); }});
  Gradients gradients(one.mesh, {{weights}});
  config::Optimizer settings;
  AdamW optimizer(settings, visit);
  Balance balance(one.mesh, 1);
  const std::vector<std::int32_t> ids(std::size_t(tokens), 1);
  const Label rows = dense(Spread::rows, Spread::rows, Spread::rows);
  const Tensor input = Tensor::empty({tokens, 256}, one.type, one.device, rows);
  const Tensor noise = Tensor::empty({tokens, 256}, accumulation(one.type), one.device, rows);
  const std::int64_t begin[] = {0, 0};
  backend(noise).normal(noise, {7, 7, 7}, 1, noise.shape(), begin);
  backend(input).copy(input, noise);
  std::vector<double> seconds;
  for (int step = 0; step < steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    gradients.clear();
    Context context;
    context.mesh = &one.mesh;
    context.type = one.type;
    context.is_training = true;
    context.tokens = double(tokens);
    context.balance = &balance;
    context.batch =
        make_batch(one.mesh, {.count = tokens / sequence, .ids = ids, .targets = ids}, one.type);
    Tape tape;
    const Tensor x = tape.watch(input);
    Tensor y;
    {
      const Tape::Recording on(&tape);
      y = one.layer().forward(x, context);
    }
    const Tensor ys[] = {y}, dys[] = {input.labelled(gradient_of(y.label()))};
    tape.backward(ys, dys);
    gradients.start(0);
    const double norm = gradients.finish();
    optimizer.step(1e-4, norm > 1 ? 1 / norm : 1);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  seconds.erase(seconds.begin(), seconds.begin() + steps / 5);
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

int run(int count, char** words) {
  require(count == 6, "layer moe|dense bf16|f32 THREADS SEQUENCE STEPS");
  const std::string kind = words[1], precision = words[2];
  require((kind == "moe" || kind == "dense") && (precision == "bf16" || precision == "f32"),
          "layer moe|dense bf16|f32 THREADS SEQUENCE STEPS");
  const std::int64_t sequence = std::atoll(words[4]);
  require(sequence > 0 && tokens % sequence == 0, "SEQUENCE must divide ", tokens);
  Layer1 one(kind, precision == "bf16" ? DType::bf16 : DType::f32, std::atoi(words[3]), sequence);
  const double step = measure(one, sequence, std::max(5, std::atoi(words[5])));
  Layers only;
  only.push_back(std::move(one.model.layers()[1]));
  Gradients none(one.mesh, {});
  const double products =
      gemm_seconds(only, none, one.mesh, tokens, kind == "moe" ? 2 : 1, one.type);
  std::printf(
      "{\"layer\": \"%s\", \"dtype\": \"%s\", \"threads\": %s, \"seq\": %lld, \"tokens_per_s\": "
      "%.1f, "
      "\"gemm_tokens_per_s\": %.1f, \"device\": \"%s\"}\n",
      words[1], words[2], words[3], static_cast<long long>(sequence), double(tokens) / step,
      double(tokens) / products, one.device.backend().description().c_str());
  return 0;
}

}  // namespace
}  // namespace pf

int main(int count, char** words) {
  try {
    return pf::run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "layer: %s\n", error.what());
    return 2;
  }
}
