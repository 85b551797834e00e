#include "core/workers.h"

#include <sched.h>

#include <algorithm>

#include "core/error.h"

namespace pf {
namespace {

// Long enough to bridge the gap between two kernels, short enough not to starve another rank.
constexpr int spin_rounds = 4000;

void pin_to(int position) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  const int usable = CPU_COUNT(&allowed);
  if (usable == 0) return;
  int wanted = position % usable;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

template <class Ready>
void spin_until(Ready ready) {
  for (int i = 0; i < spin_rounds && !ready(); ++i) __builtin_ia32_pause();
}

}  // namespace

Workers::Workers(int count, int first)
    : count_(count), spins_(count <= int(std::thread::hardware_concurrency())) {
  require(count >= 1 && count <= 4096, "workers: ", count, " threads; at least one is wanted");
  for (int worker = 1; worker < count; ++worker)
    threads_.emplace_back([this, worker, first] {
      if (first >= 0) pin_to(first + worker);
      work(worker);
    });
  if (first >= 0) pin_to(first);
}

Workers::~Workers() {
  stops_ = true;
  ++round_;
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::work(int worker) {
  for (std::uint32_t seen = 0;;) {
    if (spins_) spin_until([&] { return round_.load(std::memory_order_acquire) != seen; });
    round_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stops_) return;
    (*body_)(worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void Workers::run(const std::function<void(int)>& body) {
  if (count_ == 1) return body(0);
  body_ = &body;
  running_.store(count_ - 1, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_acq_rel);
  round_.notify_all();
  body(0);
  const auto is_done = [&] { return running_.load(std::memory_order_acquire) == 0; };
  if (spins_) spin_until(is_done);
  for (int left; (left = running_.load(std::memory_order_acquire)) != 0;)
    running_.wait(left, std::memory_order_acquire);
}

void Workers::each(std::int64_t tasks, const std::function<void(std::int64_t, int)>& body) {
  std::atomic<std::int64_t> next{0};
  run([&](int worker) {
    for (std::int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
      body(task, worker);
  });
}

void Workers::split(std::int64_t size, std::int64_t grain,
                    const std::function<void(std::int64_t, std::int64_t, int)>& body) {
  const std::int64_t pieces = (size + grain - 1) / grain;
  run([&](int worker) {
    const std::int64_t begin = pieces * worker / count_ * grain;
    const std::int64_t end = std::min(size, pieces * (worker + 1) / count_ * grain);
    if (begin < end) body(begin, end, worker);
  });
}

}  // namespace pf
