#include "core/tensor.h"

#include <cstring>
#include <sstream>
#include <utility>

#include "core/backend.h"
#include "core/error.h"

namespace pf {

Storage::Storage(Device& device, std::size_t bytes, const Purpose& purpose)
    : device_(&device), bytes_(bytes), purpose_(purpose), data_(device.allocate(bytes, purpose)) {}

Storage::~Storage() {
  if (!is_dropped_) device_->release(data_, bytes_, purpose_);
}

void Storage::drop() {
  device_->release(std::exchange(data_, nullptr), bytes_, purpose_);
  is_dropped_ = true;
}

void Storage::take(Storage& other) {
  data_ = std::exchange(other.data_, nullptr);
  purpose_ = other.purpose_;
  is_dropped_ = std::exchange(other.is_dropped_, true);
}

Tensor Tensor::empty(Shape shape, DType type, Device& device, const Label& label, const char* op) {
  Tensor x;
  x.storage_ = std::make_shared<Storage>(device, std::size_t(shape.size()) * size_of(type),
                                         PurposeScope::current(op));
  x.shape_ = shape;
  x.pitch_ = shape.columns();
  x.type_ = type;
  x.label_ = is_floating(type) ? label : constant(label);
  return x;
}

Tensor Tensor::zeros(Shape shape, DType type, Device& device, const Label& label, const char* op) {
  Tensor x = empty(shape, type, device, label, op);
  pf::backend(x).fill(x, 0);
  return x;
}

Tensor Tensor::scalar(double value, DType type, Device& device, const Label& label,
                      const char* op) {
  Tensor x = empty({}, type, device, label, op);
  pf::backend(x).fill(x, value);
  return x;
}

Tensor Tensor::like(const Tensor& x, const char* op) {
  return empty(x.shape_, x.type_, x.device(), x.label_, op);
}

Tensor Tensor::gradient_like(const Tensor& x, const char* op) {
  return empty(x.shape_, x.type_, x.device(), gradient_of(x.label_), op);
}

std::string Tensor::text() const {
  std::ostringstream out;
  out << name(type_) << ' ' << shape_ << ' ' << pf::text(label_);
  return out.str();
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  require(shape_.dims() >= 1 && begin >= 0 && begin <= end && end <= extent(0), "rows: [", begin,
          ", ", end, ") of ", shape_);
  Tensor y = detached().labelled(label_);
  const std::int64_t step = shape_.dims() == 1 ? 1
                            : extent(0) == 0   ? 0
                                               : rows() / extent(0) * pitch_;
  y.offset_ += std::size_t(begin * step) * size_of(type_);
  y.shape_.set(0, end - begin);
  if (shape_.dims() == 1) y.pitch_ = end - begin;
  return y;
}

Tensor Tensor::columns(std::int64_t begin, std::int64_t end) const {
  require(shape_.dims() == 2 && begin >= 0 && begin <= end && end <= extent(1), "columns: [", begin,
          ", ", end, ") of ", shape_);
  Tensor y = detached().labelled(label_);
  y.offset_ += std::size_t(begin) * size_of(type_);
  y.shape_.set(1, end - begin);
  return y;
}

Tensor Tensor::reshaped(Shape shape) const {
  require(is_contiguous() && shape.size() == size(), "reshape: ", shape_, " with pitch ", pitch_,
          " to ", shape);
  Tensor y = detached().labelled(label_);
  y.shape_ = shape;
  y.pitch_ = shape.columns();
  return y;
}

Tensor Tensor::labelled(const Label& label) const {
  Tensor y = *this;
  y.label_ = label;
  return y;
}

Tensor Tensor::detached() const {
  Tensor y = labelled(constant(label_));
  y.slot_ = {};
  return y;
}

Tensor Tensor::with_slot(Slot slot) const {
  Tensor y = *this;
  y.slot_ = slot;
  return y;
}

Tensor Tensor::widened(std::int64_t columns) const {
  const std::size_t end = offset_ + std::size_t(rows() * pitch_) * size_of(type_);
  if (shape_.dims() != 2 || columns > pitch_ || end > storage_->bytes()) return {};
  Tensor y = *this;
  y.shape_.set(1, columns);
  y.slot_ = {};
  return y;
}

bool Tensor::is_same_view(const Tensor& other) const {
  return storage_ == other.storage_ && offset_ == other.offset_ && shape_ == other.shape_ &&
         pitch_ == other.pitch_;
}

bool Tensor::is_whole() const {
  return offset_ == 0 && is_contiguous() &&
         std::size_t(size()) * size_of(type_) == storage_->bytes();
}

void* Tensor::no_data() const {
  require(!storage_->is_dropped(), "tensor: the memory of ", text(), " was given back");
  return nullptr;
}

void Tensor::drop_data() const {
  require(is_whole() && !storage_->is_dropped(), "drop_data: ", text(),
          " is a view, or was dropped before");
  storage_->drop();
}

void Tensor::take_data(const Tensor& like) const {
  require(is_whole() && storage_->is_dropped() && like.is_whole() && like.shape_ == shape_ &&
              like.type_ == type_ && !like.storage_->is_dropped(),
          "take_data: ", text(), " takes the memory of ", like.text());
  storage_->take(*like.storage_);
}

void Tensor::require_type(DType wanted) const {
  if (type_ == wanted) return;  // before text(), which is slow
  require(false, "tensor: wants ", name(wanted), ", found ", text());
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  std::vector<T> out(static_cast<std::size_t>(size()));
  if (raw() == nullptr) return out;
  require(device().kind() == DeviceKind::cpu, "to_vector: the tensor is not on the CPU");
  const T* from = data<T>();
  for (std::int64_t r = 0; r < rows(); ++r)
    std::memcpy(out.data() + r * columns(), from + r * pitch_, std::size_t(columns()) * sizeof(T));
  return out;
}

template std::vector<double> Tensor::to_vector() const;
template std::vector<float> Tensor::to_vector() const;
template std::vector<Bf16> Tensor::to_vector() const;
template std::vector<std::int64_t> Tensor::to_vector() const;
template std::vector<std::int32_t> Tensor::to_vector() const;
template std::vector<std::uint8_t> Tensor::to_vector() const;

double Tensor::item() const {
  require(size() == 1, "item: ", text(), " has more than one element");
  switch (type_) {
    case DType::f64:
      return to_vector<double>()[0];
    case DType::f32:
      return double(to_vector<float>()[0]);
    case DType::bf16:
      return double(to_vector<Bf16>()[0]);
    case DType::i64:
      return double(to_vector<std::int64_t>()[0]);
    case DType::i32:
      return double(to_vector<std::int32_t>()[0]);
    case DType::u8:
      return double(to_vector<std::uint8_t>()[0]);
  }
  return 0;
}

Backend& backend(const Tensor& x) {
  return x.device().backend();
}

}  // namespace pf
