#include "launch/metrics_cut.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "launch/staged_file.h"

namespace pf {
namespace {

struct Line {
  std::int64_t step = 0;
  bool is_evaluation = false;
};

// Nothing for what MetricsLog did not write, or not all of.
std::optional<Line> line_of(std::string_view text) {
  constexpr std::string_view begin = R"({"step":)";
  if (!text.starts_with(begin) || !text.ends_with('}')) return {};
  text.remove_prefix(begin.size());
  Line line;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), line.step);
  if (error != std::errc()) return {};
  text.remove_prefix(std::size_t(end - text.data()));
  line.is_evaluation = text.starts_with(R"(,"heldout":)");
  return line;
}

// Decides line by line, in the order of the file.
class Keeper {
 public:
  explicit Keeper(std::int64_t last) : last_(last) {}

  bool keeps(const Line& line) {
    std::int64_t& newest = line.is_evaluation ? evaluation_ : step_;
    if (line.step > last_ || line.step <= newest) return false;
    if (!line.is_evaluation) miss(line.step);
    newest = line.step;
    return true;
  }

  // "20 of its first 50 steps: 31 to 50"
  std::string missing() {
    miss(last_ + 1);
    if (missing_ == 0) return {};
    return fmt::format("{} of the first {} steps: {}{}", missing_, last_, first_gap_,
                       has_more_ ? " and others" : "");
  }

 private:
  // What lies between the newest step and `next`.
  void miss(std::int64_t next) {
    const std::int64_t count = next - step_ - 1;
    if (count == 0) return;
    has_more_ = missing_ > 0;
    if (!has_more_)
      first_gap_ =
          count == 1 ? std::to_string(next - 1) : fmt::format("{} to {}", step_ + 1, next - 1);
    missing_ += count;
  }

  std::int64_t last_, step_ = 0, evaluation_ = -1, missing_ = 0;
  std::string first_gap_;
  bool has_more_ = false;
};

void cut(const std::string& path, std::uintmax_t bytes) {
  const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const bool is_done = file >= 0 && ftruncate(file, off_t(bytes)) == 0 && fsync(file) == 0;
  const int error = errno;
  if (file >= 0) close(file);
  if (!is_done)
    throw WriteError(path + ": can't be cut: " + std::generic_category().message(error));
}

// Where what is kept is not all at the start.
void write_kept(const std::string& path, std::int64_t step) {
  std::ifstream in(path, std::ios::binary);
  StagedFile out(path);
  Keeper keeper(step);
  for (std::string text; std::getline(in, text) && !in.eof();) {
    const std::optional<Line> line = line_of(text);
    if (line && keeper.keeps(*line)) out.write(text + '\n');
  }
  require(!in.bad(), path, ": can't be read");
  out.sync();
  out.publish();
  out.keep();
  sync_folder_of(path);
}

}  // namespace

std::string cut_metrics(const std::string& path, std::int64_t step) {
  std::ifstream in(path, std::ios::binary);
  require(in.is_open() || !std::filesystem::exists(path), path, ": can't be opened");
  Keeper keeper(step);
  std::uintmax_t at = 0, kept_to = 0;
  bool is_prefix = true;  // of the file: all that is kept so far
  for (std::string text; std::getline(in, text) && !in.eof();) {
    const std::optional<Line> line = line_of(text);
    const bool is_kept = line && keeper.keeps(*line);
    if (is_kept) is_prefix = is_prefix && kept_to == at;
    at += text.size() + 1;
    if (is_kept && is_prefix) kept_to = at;
  }
  require(!in.bad(), path, ": can't be read");
  if (!is_prefix)
    write_kept(path, step);
  else if (in.is_open() && kept_to < std::filesystem::file_size(path))
    cut(path, kept_to);
  const std::string missing = keeper.missing();
  return missing.empty() ? "" : path + ": lacks " + missing;
}

}  // namespace pf
