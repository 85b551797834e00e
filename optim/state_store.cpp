#include "optim/state_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "core/error.h"
#include "parallel/collectives.h"

namespace pf {
namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

// Calls f(done) until it has moved all `bytes`.
template <class F>
void move_all(const std::string& folder, const char* verb, std::size_t bytes, F f) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t moved = f(done);
    if (moved < 0 && errno == EINTR) continue;
    require(moved > 0, "optimizer.offload: ", folder, ": states can't be ", verb, ": ",
            moved < 0 ? reason(errno) : "the file is shorter than they are");
    done += static_cast<std::size_t>(moved);
  }
}

}  // namespace

Tensor StoredState::load() const {
  if (store_ == nullptr) return like_;
  Tensor x = Tensor::like(like_);
  store_->read(x, offset_);
  return x;
}

void StoredState::save(const Tensor& x) const {
  if (store_ != nullptr) store_->write(x, offset_);
}

StateStore::~StateStore() {
  if (file_ >= 0) close(file_);
}

StoredState StateStore::zeros(const Shape& shape, DType type, Device& device, const Label& label) {
  StoredState state;
  state.like_ = folder_.empty() ? Tensor::zeros(shape, type, device, label)
                                : Tensor::empty(shape, type, device, label);
  if (folder_.empty()) return state;
  state.store_ = this;
  state.offset_ = size_;
  if (!state.like_.is_meta()) extend(bytes_of(state.like_).size());
  state.like_.drop_data();
  return state;
}

void StateStore::open() {
  std::string name = folder_ + "/pentafold-states-XXXXXX";
  file_ = mkostemp(name.data(), O_CLOEXEC);
  require(file_ >= 0, "optimizer.offload: no file can be made in ", folder_, ": ", reason(errno),
          "; name a folder that can be written");
  unlink(name.c_str());
}

void StateStore::extend(std::size_t bytes) {
  if (file_ < 0) open();
  if (bytes == 0) return;
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(file_, size_, off_t(bytes));
  require(error == 0, "optimizer.offload: ", folder_, " can't hold more than ", size_,
          " bytes of a rank's states: ", reason(error));
  size_ += std::int64_t(bytes);
}

void StateStore::read(const Tensor& x, std::int64_t offset) const {
  if (x.is_meta()) return;
  const Bytes bytes = bytes_of(x);
  move_all(folder_, "read", bytes.size(), [&](std::size_t done) {
    return pread(file_, bytes.data() + done, bytes.size() - done, offset + off_t(done));
  });
}

void StateStore::write(const Tensor& x, std::int64_t offset) const {
  if (x.is_meta()) return;
  const Bytes bytes = bytes_of(x);
  move_all(folder_, "written", bytes.size(), [&](std::size_t done) {
    return pwrite(file_, bytes.data() + done, bytes.size() - done, offset + off_t(done));
  });
}

}  // namespace pf
