// The pool of threads of one rank.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace pf {

// `count` threads, the caller's among them. The caller must be one thread; tasks must not throw and
// must not call the workers again.
class Workers {
 public:
  // Pins the threads to the processors `first`, `first` + 1, ... of those that this process may
  // use; -1 pins nothing.
  explicit Workers(int count, int first = -1);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int count() const { return count_; }

  // body(worker) once on each worker; returns when all are done.
  void run(const std::function<void(int worker)>& body);

  // body(task, worker) for each of [0, tasks), by whichever worker is free: processors are not
  // equally fast, and others use them. What comes of a task must not depend on the worker.
  void each(std::int64_t tasks, const std::function<void(std::int64_t task, int worker)>& body);

  // body(begin, end, worker) over [0, size) in one run a worker, cut at multiples of `grain`: each
  // time the same runs on the same workers, so that sums over workers come out the same.
  void split(std::int64_t size, std::int64_t grain,
             const std::function<void(std::int64_t begin, std::int64_t end, int worker)>& body);

 private:
  void work(int worker);

  int count_;
  bool spins_;
  const std::function<void(int)>* body_ = nullptr;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stops_{false};
  std::vector<std::thread> threads_;
};

}  // namespace pf
