// The file that says which run uses a folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace pf {

// A run, as its file says in lines of a key and a value.
struct LockHolder {
  std::string host, process, since;  // since: "2026-11-30 09:15:02 UTC"
  std::string machine;               // this start of this kernel
  std::string id;                    // of this lock: random
  std::int64_t beats = 0;            // signs of life
};
std::string to_text(const LockHolder& holder);
// What is missing stays empty.
LockHolder lock_holder_of(const std::string& text);

// Closed with its last owner; programs that the process starts don't get it.
class LockDescriptor {
 public:
  LockDescriptor() = default;
  explicit LockDescriptor(int number) : number_(number) {}
  LockDescriptor(LockDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  LockDescriptor& operator=(LockDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~LockDescriptor();
  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

enum class Flock : std::uint8_t { taken, busy, unknown };

// FOLDER/lock, by a descriptor of the folder, which may be renamed. Each call opens the file anew,
// since network file systems show others' changes then. Errors of the system are thrown as Error,
// naming the file, where nothing else is said.
class LockFile {
 public:
  LockFile(std::string folder, bool uses_flock);

  const std::string& folder() const { return folder_; }
  // Whether the folder has still the name that it was opened by.
  bool is_in_place() const;

  // Not open if there is none.
  LockDescriptor open() const;
  // Unknown where the file system has none. Kept until the descriptor is closed.
  Flock flock(const LockDescriptor& file) const;
  // Whether FOLDER/lock is still this file.
  bool is_current(const LockDescriptor& file) const;
  // Nothing if there is no file; "" while the system can't read it.
  std::optional<std::string> read() const;
  // In place; false if the system does not.
  bool write(const LockDescriptor& file, const std::string& text) const;
  // Makes the file, with this text and flocked, if there is none; else it is not open. `is_alone`
  // is false where the file system can't do that for one alone: then others may have made theirs in
  // its place.
  LockDescriptor create(const std::string& text, bool& is_alone) const;
  // Puts a new one in the place of what is there.
  LockDescriptor replace(const std::string& text) const;
  void remove() const;
  // Since the file was last written, by the clock of its file system; 0 if there is none.
  double age() const;

 private:
  std::string new_name() const;
  LockDescriptor make(const std::string& name, const std::string& text) const;

  std::string folder_;
  bool uses_flock_;
  LockDescriptor at_;
};

std::string random_id();

}  // namespace pf
