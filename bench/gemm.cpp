// Products with weights alone: forward, input gradient and weight gradient, through the backend as
// training calls them. A line of JSON for each shape, with the fewest seconds that each product
// took; the weight is packed before. bench/gemm.py is the same in PyTorch.
//   gemm f64|f32|bf16 THREADS GROUPSxROWSxINPUTSxOUTPUTS ...      ROWS: of each group
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/device.h"
#include "core/error.h"
#include "core/tensor.h"

namespace pf {
namespace {

constexpr const char* usage = "usage: gemm f64|f32|bf16 THREADS GROUPSxROWSxINPUTSxOUTPUTS ...";

struct Sizes {
  long long groups = 0, rows = 0, inputs = 0, outputs = 0;
};

Sizes sizes_of(const std::string& text) {
  Sizes s;
  int end = 0;
  const int found = std::sscanf(text.c_str(), "%lldx%lldx%lldx%lld%n", &s.groups, &s.rows,
                                &s.inputs, &s.outputs, &end);
  require(found == 4 && std::size_t(end) == text.size() &&
              std::min({s.groups, s.rows, s.inputs, s.outputs}) > 0,
          "'", text, "' is no shape like 1x4096x256x512; ", usage);
  return s;
}

DType type_of(const std::string& word) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    if (word == name(type)) return type;
  throw Error("'" + word + "' is no type; " + usage);
}

// Of calls for a fifth of a second, after one that fills caches.
template <class F>
double fewest_seconds(F call) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  call();
  double fewest = std::numeric_limits<double>::infinity();
  for (const auto begin = Clock::now(); since(begin) < 0.2;) {
    const auto start = Clock::now();
    call();
    fewest = std::min(fewest, since(start));
  }
  return fewest;
}

class Product {
 public:
  Product(const Sizes& sizes, DType type, Device& device)
      : device_(&device), counts_(std::size_t(sizes.groups), sizes.rows) {
    const Shape shape = sizes.groups == 1 ? Shape{sizes.outputs, sizes.inputs}
                                          : Shape{sizes.groups, sizes.outputs, sizes.inputs};
    weight_.groups = sizes.groups;
    weight_.inputs = sizes.inputs;
    weight_.outputs = sizes.outputs;
    weight_.type = type;
    weight_.parts = {normal(shape, accumulation(type))};
    gradients_ = {{Tensor::zeros(shape, accumulation(type), device)}};
    x_ = normal({sizes.groups * sizes.rows, sizes.inputs}, type);
    dy_ = normal({sizes.groups * sizes.rows, sizes.outputs}, type);
    Backend& on = device.backend();
    if (const std::size_t size = on.packed_bytes(weight_); size > 0) {
      weight_.forward = bytes(size);
      weight_.backward = bytes(size);
      on.pack(weight_, bytes(on.pack_workspace(weight_)));
    }
    work_ = bytes(on.product_workspace(x_.rows(), weight_));
  }

  double forward() const {
    const Tensor y = Tensor::empty(dy_.shape(), dy_.dtype(), *device_);
    return fewest_seconds([&] { device_->backend().product(y, x_, weight_, counts_, work_); });
  }
  double input_gradient() const {
    const Tensor dx = Tensor::empty(x_.shape(), x_.dtype(), *device_);
    return fewest_seconds(
        [&] { device_->backend().product_input_gradient(dx, dy_, weight_, counts_, work_); });
  }
  double weight_gradient() const {
    return fewest_seconds([&] {
      device_->backend().product_weight_gradient(gradients_, dy_, x_, weight_, counts_, work_);
    });
  }

 private:
  Tensor normal(const Shape& shape, DType type) const {
    const Tensor noise = Tensor::empty(shape, accumulation(type), *device_);
    const std::int64_t begin[Shape::max_dims] = {};
    backend(noise).normal(noise, {1, 1, 1}, 1, shape, begin);
    if (type == noise.dtype()) return noise;
    const Tensor values = Tensor::empty(shape, type, *device_);
    backend(values).copy(values, noise);
    return values;
  }
  Tensor bytes(std::size_t count) const {
    return Tensor::empty({std::int64_t(count)}, DType::u8, *device_);
  }

  Device* device_;
  std::vector<std::int64_t> counts_;
  Packed weight_;
  std::vector<GradientTarget> gradients_;
  Tensor x_, dy_, work_;
};

void run(const std::vector<std::string>& words) {
  require(words.size() >= 3, usage);
  const DType type = type_of(words[0]);
  const int threads = std::atoi(words[1].c_str());
  require(threads > 0, "'", words[1], "' is no number of threads; ", usage);
  Device device(make_cpu_backend(threads, 0));
  for (std::size_t i = 2; i < words.size(); ++i) {
    const Product product(sizes_of(words[i]), type, device);
    std::printf(
        "{\"shape\": \"%s\", \"dtype\": \"%s\", \"threads\": %d, \"forward_s\": %.6g, "
        "\"input_gradient_s\": %.6g, \"weight_gradient_s\": %.6g}\n",
        words[i].c_str(), name(type), threads, product.forward(), product.input_gradient(),
        product.weight_gradient());
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace pf

int main(int count, char** words) {
  try {
    pf::run({words + 1, words + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gemm: %s\n", error.what());
    return 2;
  }
}
