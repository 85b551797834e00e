#include "launch/checkpoint_values.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/backend.h"
#include "core/device.h"

namespace pf {
namespace {

constexpr std::int64_t elements_at_once = std::int64_t{1} << 18;

// One tensor of a checkpoint.
class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const SavedTensor& tensor)
      : checkpoint_(checkpoint), tensor_(tensor), device_(make_cpu_backend(1)) {
    buffer_ =
        Tensor::empty({std::min(elements_at_once, tensor.shape.size())}, tensor.type, device_);
  }

  // [elements of the box], until the next call.
  Tensor read(const Block& box) const {
    Tensor values = buffer_.rows(0, box.extents.size());
    checkpoint_.read(tensor_.name, tensor_.shape, box, values);
    return values;
  }

 private:
  const Checkpoint& checkpoint_;
  const SavedTensor& tensor_;
  Device device_;
  Tensor buffer_;
};

template <class F>
void for_each_box(const Shape& whole, F action) {
  const Block all{{}, whole};
  for (std::int64_t begin = 0; begin < whole.size(); begin += elements_at_once)
    for (const Block& box : boxes_of(all, begin, std::min(begin + elements_at_once, whole.size())))
      action(box);
}

// Calls action(values, count) with the elements in their type.
template <class F>
void with_values(const Tensor& x, F action) {
  if (x.dtype() == DType::f64)
    action(x.data<double>(), x.size());
  else
    action(x.data<float>(), x.size());
}

bool is_same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}
bool is_same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

// What was seen so far of two tensors.
struct Seen {
  std::int64_t different = 0;
  double distance = 0, largest = 0;

  template <class T>
  void add(const T* a, const T* b, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const double x = a[i], y = b[i];
      for (const double value : {x, y})
        if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
      if (is_same(a[i], b[i])) continue;
      ++different;
      const double apart = std::fabs(x - y);
      if (!std::isnan(apart))
        distance = std::max(distance, apart);
      else if (!(std::isnan(x) && std::isnan(y)))
        distance = std::numeric_limits<double>::infinity();
    }
  }
};

}  // namespace

ValueStatistics statistics_of(const Checkpoint& checkpoint, const SavedTensor& tensor) {
  const Reader reader(checkpoint, tensor);
  constexpr double endless = std::numeric_limits<double>::infinity();
  double min = endless, max = -endless, sum = 0, squares = 0;
  std::int64_t numbers = 0;
  for_each_box(tensor.shape, [&](const Block& box) {
    with_values(reader.read(box), [&](const auto* values, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        const double value = values[i];
        if (std::isnan(value)) continue;
        ++numbers;
        min = std::min(min, value);
        max = std::max(max, value);
        sum += value;
        squares += value * value;
      }
    });
  });
  const std::int64_t nan = tensor.shape.size() - numbers;
  if (numbers == 0) return {.nan = nan};
  return {min, max, sum / double(numbers), std::sqrt(squares), nan};
}

ValueDistance distance_of(const Checkpoint& a, const Checkpoint& b, const SavedTensor& tensor) {
  const Reader of_a(a, tensor), of_b(b, tensor);
  Seen seen;
  for_each_box(tensor.shape, [&](const Block& box) {
    const Tensor x = of_a.read(box), y = of_b.read(box);
    if (x.dtype() == DType::f64)
      seen.add(x.data<double>(), y.data<double>(), x.size());
    else
      seen.add(x.data<float>(), y.data<float>(), x.size());
  });
  const bool is_relative = seen.distance > 0 && seen.largest > 0;
  return {seen.different, is_relative ? seen.distance / seen.largest : seen.distance};
}

}  // namespace pf
