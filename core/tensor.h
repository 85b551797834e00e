// A tensor: a view of shared storage, with a label that says how the ranks of each mesh axis hold
// it.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"
#include "core/spread.h"

namespace pf {

// Bytes on a device. The only owner; tensors share it.
class Storage {
 public:
  Storage(Device& device, std::size_t bytes, const Purpose& purpose);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  Device& device() const { return *device_; }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const { return bytes_; }
  bool is_dropped() const { return is_dropped_; }
  // Gives the memory back; takes that of `other`, of the same size, which is dropped.
  void drop();
  void take(Storage& other);

 private:
  Device* device_;
  std::size_t bytes_;
  Purpose purpose_;
  void* data_;
  bool is_dropped_ = false;
};

// Where a tape keeps a tensor's gradient. `tape` is the serial number of the tape that recorded it.
struct Slot {
  std::uint64_t tape = 0;
  int index = -1;
};

// A cheap value. Row-major; two-dim tensors have a row pitch, so that ranges of rows and of columns
// are views. A default tensor is empty: false in a condition.
class Tensor {
 public:
  Tensor() = default;
  // Not initialised. On meta there is no data. `op`: who asks (core/purpose.h).
  static Tensor empty(Shape shape, DType type, Device& device, const Label& label = {},
                      const char* op = __builtin_FUNCTION());
  static Tensor zeros(Shape shape, DType type, Device& device, const Label& label = {},
                      const char* op = __builtin_FUNCTION());
  static Tensor scalar(double value, DType type, Device& device, const Label& label = {},
                       const char* op = __builtin_FUNCTION());
  // Not initialised; as x in all but pitch and slot.
  static Tensor like(const Tensor& x, const char* op = __builtin_FUNCTION());
  // The same with the label of x's gradient.
  static Tensor gradient_like(const Tensor& x, const char* op = __builtin_FUNCTION());

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  std::int64_t extent(int dim) const { return shape_[dim]; }
  std::int64_t size() const { return shape_.size(); }
  std::int64_t rows() const { return shape_.rows(); }
  std::int64_t columns() const { return shape_.columns(); }
  std::int64_t pitch() const { return pitch_; }  // elements from one row to the next
  bool is_contiguous() const { return pitch_ == columns() || rows() <= 1; }
  DType dtype() const { return type_; }
  Device& device() const { return storage_->device(); }
  bool is_meta() const { return device().kind() == DeviceKind::meta; }
  const Label& label() const { return label_; }
  const Slot& slot() const { return slot_; }
  std::string text() const;  // "bf16 [512, 256] tp:rows ..."

  // Throws if T is not the element type, or if the memory was given back. Null on meta.
  template <class T>
  T* data() const {
    require_type(dtype_of<T>());
    return static_cast<T*>(raw());
  }
  void* raw() const { return storage_->data() == nullptr ? no_data() : storage_->data() + offset_; }

  // Gives the memory under a whole tensor and its views back, until it takes that of `like`, a
  // whole tensor like it.
  void drop_data() const;
  void take_data(const Tensor& like) const;

  // Views. A view has no slot: it takes no part in gradients.
  Tensor rows(std::int64_t begin, std::int64_t end) const;     // of the first dim
  Tensor columns(std::int64_t begin, std::int64_t end) const;  // two dims
  Tensor reshaped(Shape shape) const;                          // contiguous
  Tensor labelled(const Label& label) const;
  Tensor detached() const;  // a constant: no gradient flows to it
  Tensor with_slot(Slot slot) const;
  // The matrix with `columns` columns that this one is the first columns of; empty if the storage
  // ends before.
  Tensor widened(std::int64_t columns) const;
  // The same elements of the same storage, seen the same way.
  bool is_same_view(const Tensor& other) const;
  // How many tensors share its storage, this one among them. Where they are all in the hands of one
  // backward, nothing else will read it, and gradients may be written over it.
  long sharers() const { return storage_.use_count(); }

  // Copies of the elements of a tensor on the CPU, for tests, logs and metrics. Zeros on meta.
  template <class T>
  std::vector<T> to_vector() const;
  double item() const;  // of one element

 private:
  void require_type(DType wanted) const;
  void* no_data() const;
  bool is_whole() const;

  std::shared_ptr<Storage> storage_;
  std::size_t offset_ = 0;  // bytes
  Shape shape_;
  std::int64_t pitch_ = 1;
  DType type_ = DType::f32;
  Label label_;
  Slot slot_;
};

Backend& backend(const Tensor& x);

}  // namespace pf
