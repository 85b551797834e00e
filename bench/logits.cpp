// The weights and logits of a small model as text, for bench/beside_huggingface.py: a model in
// protobuf text on standard input; on standard output each tensor as a line of its name and shape
// and a line of its numbers.
#include <google/protobuf/text_format.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "models/stage.h"
#include "models/transformer.h"
#include "parallel/communicator.h"

namespace pf {
namespace {

constexpr std::int64_t sequences = 2, length = 24;

template <class Numbers>
void print(const std::string& name, const std::vector<std::int64_t>& shape, const Numbers& values) {
  std::printf("%s", name.c_str());
  for (const std::int64_t extent : shape) std::printf(" %lld", static_cast<long long>(extent));
  std::printf("\n");
  for (const auto value : values) std::printf("%.17g ", double(value));
  std::printf("\n");
}

// Norms and biases that differ from one another.
void roughen(Parameter& w) {
  if (w.whole().dims() > 1) return;
  auto* values = w.value().data<double>();
  for (std::int64_t i = 0; i < w.size(); ++i) values[i] += 0.1 * double(i * 7 % 5 - 2);
  w.changed();
}

void run(const config::Model& config) {
  FakeCommunicator alone(0, 1);
  Device device(make_cpu_backend(1));
  const Mesh mesh(alone, device, Layout::make(1, 1, 1, 1, 1, 1, int(config.kv_heads())), {0});
  Transformer model(config, {.positions = length, .type = DType::f64}, mesh);
  model.initialise(3);
  model.visit({.parameter = [](Parameter& w) {
    roughen(w);
    std::vector<std::int64_t> shape;
    for (int dim = 0; dim < w.whole().dims(); ++dim) shape.push_back(w.whole()[dim]);
    print(w.name(), shape, w.value().to_vector<double>());
  }});

  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < sequences * length; ++i)
    ids.push_back(std::int32_t((i * i * 31 + i * 7) % config.vocabulary()));
  print("ids", {sequences, length}, ids);
  Context context;
  context.mesh = &mesh;
  context.type = DType::f64;
  context.batch = make_batch(mesh, {.count = sequences, .ids = ids, .targets = ids}, DType::f64);
  context.wants_logits = true;
  Gradients none(mesh, {});
  Stage stage(model.layers(), none);
  print("logits", {sequences, length, config.vocabulary()},
        stage.evaluate(context, {0, model.layers().size()}, {}).to_vector<double>());
}

}  // namespace
}  // namespace pf

int main() {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  pf::config::Model model;
  if (!google::protobuf::TextFormat::ParseFromString(text, &model)) return 2;
  try {
    pf::run(pf::with_heads(model));
  } catch (const pf::Error& error) {
    std::fprintf(stderr, "logits: %s\n", error.what());
    return 1;
  }
}
