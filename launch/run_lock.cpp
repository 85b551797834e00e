#include "launch/run_lock.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/error.h"
#include "launch/lock_file.h"
#include "launch/text.h"

namespace pf {
namespace {

using Clock = std::chrono::steady_clock;

double now() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

std::string host_name() {
  std::array<char, 256> host{};
  return gethostname(host.data(), host.size() - 1) == 0 ? host.data() : "";
}

std::string this_machine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  return file >> id ? id : "host:" + host_name();
}

LockHolder this_run(const RunLockOptions& options) {
  return {.host = host_name(),
          .process = std::to_string(getpid()),
          .since = fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(std::time(nullptr))),
          .machine = options.machine.empty() ? this_machine() : options.machine,
          .id = random_id()};
}

// "process 1234 on node7", from a file that anybody may have written.
std::string in_words(const LockHolder& holder) {
  if (holder.id.empty()) return "another run";
  return "process " + printable(holder.process, 20) + " on " + printable(holder.host, 80);
}

}  // namespace

class RunLock::Held {
 public:
  Held(const std::string& folder, const RunLockOptions& options)
      : options_(options),
        files_(folder, options.uses_flock),
        us_(this_run(options)),
        file_(take()),
        last_beat_(now()),
        thread_([this] { keep_beating(); }) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    {
      const std::lock_guard lock(mutex_);
      has_ended_ = true;
    }
    changed_.notify_one();
    thread_.join();
    if (has_lost_) return;
    const std::optional<std::string> text = files_.read();
    if (text && lock_holder_of(*text).id == us_.id) files_.remove();
  }

  bool is_in_place() const { return files_.is_in_place(); }

  void check() {
    if (!has_lost_ && now() - last_beat_ > options_.stale_s) {
      const std::lock_guard lock(mutex_);
      beat();
    }
    if (!has_lost_) return;
    const std::lock_guard lock(mutex_);
    throw Error(why_lost_);
  }

 private:
  enum class Seen : std::uint8_t { alive, dead, gone };

  LockDescriptor take();
  std::optional<LockDescriptor> try_to_take(std::optional<std::string>& dead);
  void settle() const;
  Seen watch(const std::string& text) const;
  [[noreturn]] void refuse() const;
  void keep_beating();
  void beat();

  RunLockOptions options_;
  LockFile files_;
  LockHolder us_;
  LockDescriptor file_;
  std::atomic<double> last_beat_;
  std::atomic<bool> has_lost_{false};
  std::mutex mutex_;  // of the rest, and of the file
  std::condition_variable changed_;
  bool has_ended_ = false;
  std::string why_lost_;
  std::thread thread_;
};

void RunLock::Held::refuse() const {
  const LockHolder holder = lock_holder_of(files_.read().value_or(""));
  throw Error(files_.folder() + ": is in use by " + in_words(holder) +
              (holder.since.empty() ? "" : ", since " + printable(holder.since, 40)) +
              "; wait until that run ends, or choose another run.folder");
}

// What others wrote at the same moment is there by then, and the last one has the lock.
void RunLock::Held::settle() const {
  sleep_for(options_.beat_s / 5);
  if (lock_holder_of(files_.read().value_or("")).id != us_.id) refuse();
}

// Whether the file, which has this text, changes before it is stale.
RunLock::Held::Seen RunLock::Held::watch(const std::string& text) const {
  const double age = std::clamp(files_.age(), 0.0, options_.stale_s);
  const double end = now() + options_.stale_s - age;
  if (age < options_.stale_s && options_.say)
    options_.say(files_.folder() + ": " + in_words(lock_holder_of(text)) + " used it " +
                 duration_in_words(age) + " ago; waiting up to " +
                 duration_in_words(options_.stale_s - age) + " for a sign of life");
  for (;;) {
    const std::optional<std::string> found = files_.read();
    if (!found) return Seen::gone;
    if (*found != text && !found->empty()) return Seen::alive;
    if (now() >= end) return Seen::dead;
    sleep_for(std::min(options_.beat_s / 10, std::max(end - now(), 0.0)));
  }
}

// Nothing: to be tried again. `dead` is what stood in a file that nobody has touched since.
std::optional<LockDescriptor> RunLock::Held::try_to_take(std::optional<std::string>& dead) {
  const std::string text = to_text(us_);
  LockDescriptor file = files_.open();
  if (!file.is_open()) {
    bool is_alone = true;
    LockDescriptor made = files_.create(text, is_alone);
    if (!made.is_open()) return {};
    if (!is_alone) settle();
    return made;
  }
  const Flock flock = files_.flock(file);
  if (!files_.is_current(file)) return {};
  const std::string found = files_.read().value_or("");
  const bool flock_decides =
      flock != Flock::unknown && lock_holder_of(found).machine == us_.machine;
  if (flock_decides && flock == Flock::busy) {
    sleep_for(options_.beat_s / 100);  // one who has just taken it writes its name
    refuse();
  }
  if (!flock_decides && found != dead) {
    file = LockDescriptor();
    const Seen seen = watch(found);
    if (seen == Seen::alive) refuse();
    if (seen == Seen::dead) dead = found;
    return {};
  }
  // A lock that a dead machine still has on a server stays with the old file.
  if (flock == Flock::busy)
    file = files_.replace(text);
  else
    require(files_.write(file, text), files_.folder(), "/lock: can't be written");
  if (!flock_decides) settle();
  return file;
}

LockDescriptor RunLock::Held::take() {
  constexpr int most_tries = 100;  // each fails only because another process came in between
  std::optional<std::string> dead;
  for (int i = 0; i < most_tries; ++i)
    if (std::optional<LockDescriptor> file = try_to_take(dead)) return std::move(*file);
  refuse();
}

// The first beat comes soon: it finds one who took the lock at the same moment.
void RunLock::Held::keep_beating() {
  std::unique_lock lock(mutex_);
  for (double wait = options_.beat_s / 5; !has_lost_; wait = options_.beat_s) {
    if (changed_.wait_for(lock, std::chrono::duration<double>(wait), [this] { return has_ended_; }))
      return;
    try {
      beat();
    } catch (const Error&) {
      // The system can't do it now; the next beat may.
    }
  }
}

// The file is looked at before it is written: it may be another's by now.
void RunLock::Held::beat() {
  const std::optional<std::string> text = files_.read();
  const LockHolder holder = lock_holder_of(text.value_or(""));
  if (text && holder.id == us_.id) {
    us_.beats += 1;
    const LockDescriptor file = files_.open();
    if (file.is_open() && files_.write(file, to_text(us_))) last_beat_ = now();
    return;
  }
  if (text && holder.id.empty()) return;
  why_lost_ =
      text ? files_.folder() + ": " + in_words(holder) +
                 " has taken it, since this run gave no sign of life for more than " +
                 duration_in_words(options_.stale_s) +
                 " (stopped, or cut off from the file system); this run ends"
           : files_.folder() + "/lock: is gone, so another run may use the folder; this run ends";
  has_lost_ = true;
}

// One who had the lock before may have renamed the folder, and others have made a new one.
RunLock::RunLock(const std::string& folder, const RunLockOptions& options) {
  do held_ = std::make_unique<Held>(folder, options);
  while (!held_->is_in_place());
}

RunLock::~RunLock() = default;

void RunLock::check() const {
  held_->check();
}

}  // namespace pf
