#include "core/device.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/backend.h"
#include "core/error.h"
#include "core/trace.h"

namespace pf {

Device::Device(std::unique_ptr<Backend> backend, std::size_t limit)
    : backend_(std::move(backend)), limit_(limit), arena_(*backend_, limit) {}

Device::~Device() = default;

DeviceKind Device::kind() const {
  return backend_->kind();
}

void Device::count(std::size_t bytes, const Purpose& purpose) {
  memory_.live += bytes;
  live_[purpose] += bytes;
  Memory& part = parts_[purpose.part];
  part.live += bytes;
  part.peak = std::max(part.peak, part.live);
  is_at_peak_ = memory_.live > memory_.peak;
  memory_.peak = std::max(memory_.peak, memory_.live);
  if (Trace* trace = Trace::current()) trace->count("bytes in tensors", memory_.live);
}

// Copies what makes up a peak only where it ends.
void Device::discount(std::size_t bytes, const Purpose& purpose) {
  if (std::exchange(is_at_peak_, false)) at_peak_ = live_;
  memory_.live -= bytes;
  live_[purpose] -= bytes;
  parts_[purpose.part].live -= bytes;
  if (Trace* trace = Trace::current()) trace->count("bytes in tensors", memory_.live);
}

void* Device::allocate(std::size_t bytes, const Purpose& purpose) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  void* data = nullptr;
  if (kind() != DeviceKind::meta) {
    data = arena_.allocate(bytes);
    require(data != nullptr, "out of memory: ", bytes, " bytes asked for, ", memory_.live,
            " live, ", memory_.peak, " at the peak",
            limit_ > 0 ? ", of " + std::to_string(limit_) + " that a rank may use" : std::string());
  }
  count(bytes, purpose);
  return data;
}

void Device::release(void* data, std::size_t bytes, const Purpose& purpose) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  discount(bytes, purpose);
  if (data != nullptr) arena_.release(data, bytes);
}

Memory Device::memory() const {
  const std::lock_guard lock(mutex_);
  return memory_;
}

BytesByPurpose Device::live() const {
  const std::lock_guard lock(mutex_);
  return live_;
}

BytesByPurpose Device::at_peak() const {
  const std::lock_guard lock(mutex_);
  return is_at_peak_ ? live_ : at_peak_;
}

Memory Device::memory_of(std::string_view part) const {
  const std::lock_guard lock(mutex_);
  const auto found = parts_.find(part);
  return found == parts_.end() ? Memory{} : found->second;
}

void Device::restart_peak() {
  const std::lock_guard lock(mutex_);
  memory_.peak = memory_.live;
  is_at_peak_ = true;
  for (auto& [part, memory] : parts_) memory.peak = memory.live;
}

}  // namespace pf
