#include "launch/lock_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <random>
#include <sstream>
#include <system_error>

#include "core/error.h"

namespace pf {
namespace {

constexpr const char* name = "lock";

std::string reason() {
  return std::generic_category().message(errno);
}

std::string text_of(const LockDescriptor& file) {
  std::array<char, 4096> buffer{};
  const ssize_t size = pread(file.number(), buffer.data(), buffer.size(), 0);
  return {buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

bool is_same(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

double seconds_of(const struct timespec& time) {
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

}  // namespace

// As long whatever the number of beats, so that one is written over the other.
std::string to_text(const LockHolder& holder) {
  return fmt::format("host {}\nprocess {}\nsince {}\nmachine {}\nid {}\nbeats {:012}\n",
                     holder.host, holder.process, holder.since, holder.machine, holder.id,
                     holder.beats);
}

LockHolder lock_holder_of(const std::string& text) {
  LockHolder holder;
  std::string beats;
  std::istringstream lines(text);
  for (std::string key, value; lines >> key && std::getline(lines >> std::ws, value);) {
    for (const auto& [known, to] : {std::pair<const char*, std::string*>{"host", &holder.host},
                                    {"process", &holder.process},
                                    {"since", &holder.since},
                                    {"machine", &holder.machine},
                                    {"id", &holder.id},
                                    {"beats", &beats}})
      if (key == known && to->empty()) *to = value;
  }
  std::from_chars(beats.data(), beats.data() + beats.size(), holder.beats);
  return holder;
}

LockDescriptor::~LockDescriptor() {
  if (is_open()) close(number_);
}

LockFile::LockFile(std::string folder, bool uses_flock)
    : folder_(std::move(folder)),
      uses_flock_(uses_flock),
      at_(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  require(at_.is_open(), folder_, ": can't be opened: ", reason());
}

bool LockFile::is_in_place() const {
  struct stat opened {
  }, named{};
  return fstat(at_.number(), &opened) == 0 && stat(folder_.c_str(), &named) == 0 &&
         is_same(opened, named);
}

LockDescriptor LockFile::open() const {
  LockDescriptor file(openat(at_.number(), name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  require(file.is_open() || errno == ENOENT, folder_, '/', name, ": can't be opened: ", reason());
  return file;
}

Flock LockFile::flock(const LockDescriptor& file) const {
  if (!uses_flock_) return Flock::unknown;
  int result = -1;
  do result = ::flock(file.number(), LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  if (result == 0) return Flock::taken;
  if (errno == EWOULDBLOCK) return Flock::busy;
  require(errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS, folder_, '/', name,
          ": can't be locked: ", reason());
  return Flock::unknown;
}

bool LockFile::is_current(const LockDescriptor& file) const {
  struct stat ours {
  }, theirs{};
  return fstat(file.number(), &ours) == 0 &&
         fstatat(at_.number(), name, &theirs, AT_SYMLINK_NOFOLLOW) == 0 && is_same(ours, theirs);
}

std::optional<std::string> LockFile::read() const {
  const LockDescriptor file(openat(at_.number(), name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file.is_open() && errno == ENOENT) return {};
  return file.is_open() ? text_of(file) : std::string();
}

bool LockFile::write(const LockDescriptor& file, const std::string& text) const {
  return pwrite(file.number(), text.data(), text.size(), 0) == ssize_t(text.size()) &&
         ftruncate(file.number(), off_t(text.size())) == 0 && fsync(file.number()) == 0;
}

std::string LockFile::new_name() const {
  return std::string(name) + "." + random_id();
}

LockDescriptor LockFile::make(const std::string& as, const std::string& text) const {
  LockDescriptor file(
      openat(at_.number(), as.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  require(file.is_open(), folder_, '/', name, ": can't be made: ", reason());
  flock(file);
  if (write(file, text)) return file;
  const std::string why = reason();
  unlinkat(at_.number(), as.c_str(), 0);
  throw Error(folder_ + "/" + name + ": can't be written: " + why);
}

// A link appears whole, and for one alone.
LockDescriptor LockFile::create(const std::string& text, bool& is_alone) const {
  const std::string temporary = new_name();
  LockDescriptor file = make(temporary, text);
  is_alone = linkat(at_.number(), temporary.c_str(), at_.number(), name, 0) == 0;
  const bool exists = !is_alone && errno == EEXIST;
  if (is_alone || exists) {
    unlinkat(at_.number(), temporary.c_str(), 0);
    return exists ? LockDescriptor() : std::move(file);
  }
  const bool is_done = renameat(at_.number(), temporary.c_str(), at_.number(), name) == 0;
  require(is_done, folder_, '/', name, ": can't be made: ", reason());
  return file;
}

LockDescriptor LockFile::replace(const std::string& text) const {
  const std::string temporary = new_name();
  LockDescriptor file = make(temporary, text);
  const bool is_done = renameat(at_.number(), temporary.c_str(), at_.number(), name) == 0;
  require(is_done, folder_, '/', name, ": can't be replaced: ", reason());
  return file;
}

void LockFile::remove() const {
  unlinkat(at_.number(), name, 0);
}

double LockFile::age() const {
  const std::string temporary = new_name();
  const LockDescriptor file = make(temporary, " ");
  struct stat now {
  }, then{};
  const bool is_known = fstat(file.number(), &now) == 0 &&
                        fstatat(at_.number(), name, &then, AT_SYMLINK_NOFOLLOW) == 0;
  unlinkat(at_.number(), temporary.c_str(), 0);
  return is_known ? seconds_of(now.st_mtim) - seconds_of(then.st_mtim) : 0;
}

std::string random_id() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

}  // namespace pf
