// What one rank computes on: memory and a backend.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace pf {

class Backend;

enum class DeviceKind { cpu, cuda, meta };

// Bytes as asked for, not as rounded or cached: equal on a real device and on meta.
struct Memory {
  std::size_t live = 0, peak = 0;
};

// One per rank: nothing here is process-wide, since a rank may be one thread. Freed blocks are kept
// and given out again. Outlives every tensor made on it. Safe to use from several threads.
class Device {
 public:
  // Holds at most `limit` bytes, blocks kept for reuse included; 0: as many as there are.
  explicit Device(std::unique_ptr<Backend> backend, std::size_t limit = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Backend& backend() const { return *backend_; }
  DeviceKind kind() const;

  // 64-byte aligned; null on meta and for 0 bytes. Throws Error with what is live when memory or
  // the limit is out.
  void* allocate(std::size_t bytes);
  void release(void* data, std::size_t bytes);

  Memory memory() const;
  void restart_peak();  // the peak counts again from what is live

 private:
  void drop_cache();
  void* fetch(std::size_t bytes);  // from the backend; null when there is no more

  std::unique_ptr<Backend> backend_;
  mutable std::mutex mutex_;
  std::size_t limit_, held_ = 0;  // of the backend's memory
  Memory memory_;
  std::map<std::size_t, std::vector<void*>> cache_;  // by rounded size
};

}  // namespace pf
