// A file that grows by whole records.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

namespace pf {

class AppendFile {
 public:
  // Makes the file where there is none. Throws Error naming it when it can't be opened.
  explicit AppendFile(std::string path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Writes all of the record or, as far as the system allows, nothing of it: what a full disk took
  // of one is cut off again, then or before the next. Returns "", or the system's reason.
  std::string append(std::string_view record);

  // Makes all of it last on the disk, also if the machine fails. Returns "", or the system's
  // reason. Any thread may call it.
  std::string sync() const;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int file_;
  std::optional<off_t> torn_at_;  // where a part of a record stands
};

}  // namespace pf
