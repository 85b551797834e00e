// Where an optimizer's state is between two steps: in memory, or in a file.
#pragma once

#include <string>
#include <utility>

#include "core/tensor.h"

namespace pf {

class StateStore;

// One tensor of it; empty by default.
class StoredState {
 public:
  StoredState() = default;
  // In memory: x itself.
  explicit StoredState(Tensor x) : like_(std::move(x)) {}
  // What was saved last: the tensor itself, or a copy of what the file holds.
  Tensor load() const;
  // Of what load() gave and somebody changed.
  void save(const Tensor& x) const;

 private:
  friend class StateStore;

  StateStore* store_ = nullptr;
  Tensor like_;  // of load(); without a file the state
  std::int64_t offset_ = 0;
};

// With a folder, states are in one file there, which has no name and so goes with its process. The
// disk gives its space when a state is made, not in the middle of a run. On meta nothing is
// written.
class StateStore {
 public:
  explicit StateStore(std::string folder) : folder_(std::move(folder)) {}
  ~StateStore();
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  // Zeros. The store must outlive it. Throws Error naming the folder if that can't be written or is
  // full.
  StoredState zeros(const Shape& shape, DType type, Device& device, const Label& label = {});

 private:
  friend class StoredState;

  void open();
  void extend(std::size_t bytes);
  void read(const Tensor& x, std::int64_t offset) const;
  void write(const Tensor& x, std::int64_t offset) const;

  std::string folder_;
  int file_ = -1;
  std::int64_t size_ = 0;
};

}  // namespace pf
