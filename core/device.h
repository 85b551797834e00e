// What one rank computes on: memory and a backend.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

#include "core/arena.h"
#include "core/purpose.h"

namespace pf {

class Backend;

enum class DeviceKind { cpu, cuda, meta };

// Bytes as asked for, not as rounded or cached: equal on a real device and on meta.
struct Memory {
  std::size_t live = 0, peak = 0;
};

using BytesByPurpose = std::map<Purpose, std::size_t>;

// One per rank: nothing here is process-wide, since a rank may be one thread. The memory of freed
// blocks is kept for others. Outlives every tensor made on it. Safe to use from several threads.
class Device {
 public:
  // Holds at most `limit` bytes, what is kept for reuse included; 0: as many as there are.
  explicit Device(std::unique_ptr<Backend> backend, std::size_t limit = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Backend& backend() const { return *backend_; }
  DeviceKind kind() const;

  // 64-byte aligned; null on meta and for 0 bytes. Throws Error with what is live when memory or
  // the limit is out.
  void* allocate(std::size_t bytes, const Purpose& purpose = {});
  void release(void* data, std::size_t bytes, const Purpose& purpose = {});

  Memory memory() const;
  // What makes up memory().live and, when it was first reached, memory().peak.
  BytesByPurpose live() const;
  BytesByPurpose at_peak() const;
  Memory memory_of(std::string_view part) const;
  void restart_peak();  // the peaks count again from what is live

  // Of products and attention, counted by their ops, all on the rank's own thread.
  void count_flops(double flops) { flops_ += flops; }
  double flops() const { return flops_; }

 private:
  void count(std::size_t bytes, const Purpose& purpose);
  void discount(std::size_t bytes, const Purpose& purpose);

  std::unique_ptr<Backend> backend_;
  mutable std::mutex mutex_;
  std::size_t limit_;
  Arena arena_;
  Memory memory_;
  BytesByPurpose live_, at_peak_;
  bool is_at_peak_ = false;  // the last call set a peak: at_peak_ is live_
  std::map<std::string_view, Memory> parts_;
  double flops_ = 0;
};

}  // namespace pf
