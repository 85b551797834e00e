#include "launch/data_command.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "launch/convert.h"
#include "launch/signals.h"
#include "launch/staged_file.h"
#include "launch/terminal.h"
#include "launch/text.h"

namespace pf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int most_threads = 1024;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::string rate(std::uint64_t bytes, double seconds) {
  return fmt::format("{:.0f} MB/s", seconds > 0 ? double(bytes) / 1e6 / seconds : 0);
}

// A line at the bottom of a terminal, redrawn in place ten times a second; nothing elsewhere.
class ProgressLine {
 public:
  explicit ProgressLine(std::FILE* out) : out_(out), is_terminal_(understands_escapes(out)) {}
  ~ProgressLine() {
    if (is_terminal_) show("");
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void operator()(const ConvertProgress& progress) {
    const double seconds = seconds_since(begin_);
    if (!is_terminal_ || seconds < next_) return;
    next_ = seconds + 0.1;
    const double left =
        progress.bytes == 0
            ? -1
            : seconds * double(progress.all_bytes - progress.bytes) / double(progress.bytes);
    const std::string line = fmt::format(" {:3.0f}%  {} of {}  {} documents  {}  {} left",
                                         100 * double(progress.bytes) / double(progress.all_bytes),
                                         bytes_in_words(std::int64_t(progress.bytes)),
                                         bytes_in_words(std::int64_t(progress.all_bytes)),
                                         count_in_words(double(progress.documents)),
                                         rate(progress.bytes, seconds), duration_in_words(left));
    // Never reaches the last column, where terminals differ in when they wrap.
    show(std::string_view(line).substr(0, std::size_t(columns_of(out_) - 1)));
  }

 private:
  void show(std::string_view line) {
    const std::string bytes = std::string(erase_line) + std::string(line);
    std::fwrite(bytes.data(), 1, bytes.size(), out_);
    std::fflush(out_);
  }

  std::FILE* out_;
  bool is_terminal_;
  Clock::time_point begin_ = Clock::now();
  double next_ = 0;
};

int usable_processors() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return std::clamp(CPU_COUNT(&allowed), 1, most_threads);
}

// PREFIX as Megatron's tools want it; the name of one of the files stands for it too.
std::string prefix_of(std::string output) {
  for (const std::string_view suffix : {".bin", ".idx"})
    if (output.ends_with(suffix)) return output.substr(0, output.size() - suffix.size());
  return output;
}

std::string closing_line(const std::string& prefix, const Converted& converted, double seconds) {
  const TokenDescription& made = converted.description;
  std::string line = fmt::format(
      "{0}.bin, {0}.idx: {1} document{2}, {3} tokens ({4}), largest id {5}", prefix, made.documents,
      made.documents == 1 ? "" : "s", made.tokens, made.tokenizer, made.largest_id);
  if (made.has_mask) line += fmt::format("; {} are targets, by {}.mask", converted.targets, prefix);
  return line + fmt::format("; {} in {}, {}\n", bytes_in_words(std::int64_t(converted.bytes)),
                            duration_in_words(seconds), rate(converted.bytes, seconds));
}

}  // namespace

void DataCommand::add_to(CLI::App& app) {
  app.add_option("INPUT", inputs);
  app.add_option("--output", output);
  app.add_option("--tokenizer", tokenizer);
  app.add_option("--threads", threads)->check([](const std::string& text) -> std::string {
    int value = 0;
    const bool is_number = CLI::detail::lexical_cast(text, value);
    return is_number && value >= 1 && value <= most_threads
               ? ""
               : fmt::format("found {}, wanted 1 to {}", text, most_threads);
  });
  app.add_flag("--force", is_forced);
}

int DataCommand::run(int& failure) const {
  require(!inputs.empty(),
          "name the INPUT to convert, like data/english.txt (see pentafold --help)");
  require(!output.empty(), "name the --output PREFIX to write, like data/english (see pentafold ",
          "--help)");
  const std::unique_ptr<const Tokenizer> encoder = make_tokenizer(tokenizer);
  const ConvertOptions options{.inputs = inputs,
                               .prefix = prefix_of(output),
                               .threads = threads > 0 ? threads : usable_processors(),
                               .replaces = is_forced};
  const SignalScope signals;
  const Clock::time_point begin = Clock::now();
  std::optional<Converted> converted;
  try {
    ProgressLine progress(stdout);
    converted = convert(options, *encoder, [&](const ConvertProgress& now) { progress(now); });
  } catch (const WriteError&) {
    failure = 1;
    throw;
  }
  failure = 1;
  if (!converted) {
    const int signal = pending_signal();
    std::fputs(("pentafold: ended by " + signal_name(signal) + "; nothing is written\n").c_str(),
               stderr);
    return 128 + signal;
  }
  print(closing_line(options.prefix, *converted, seconds_since(begin)));
  return 0;
}

}  // namespace pf
