#include "launch/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "launch/process.h"
#include "launch/terminal.h"
#include "launch/text.h"

namespace pf {

namespace {

constexpr std::int64_t steps_between_headers = 25;
constexpr int widest_bar = 40, narrowest_bar = 8;

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

std::string repeated(std::string_view text, std::int64_t times) {
  std::string all;
  for (std::int64_t i = 0; i < times; ++i) all += text;
  return all;
}

// ---- a step ----

struct Cell {
  std::string head, value;
  int width;
};

// Widths leave two spaces before the widest usual value.
std::vector<Cell> cells_of(const StepReport& report, std::int64_t steps) {
  const auto digits = static_cast<int>(std::to_string(steps).size());
  const std::int64_t resident = resident_bytes();
  std::vector<Cell> cells{
      {"step", std::to_string(report.step), std::max(5, digits + 1)},
      {"loss", fmt::format("{:.4f}", report.loss), 9},
      {"lr", fmt::format("{:.2e}", report.lr), 10},
      {"grad norm", fmt::format("{:#.4g}", report.grad_norm), 11},
      {"tokens/s", count_in_words(report.tokens_per_s), 10},
      {"max/mean load", fmt::format("{:.2f}", report.expert_load), 15},
      {"memory", resident == 0 ? "?" : bytes_in_words(resident), 11},
      {"left", duration_in_words(report.seconds_left), 8},
  };
  if (report.expert_load == 0) cells.erase(cells.begin() + 5);
  return cells;
}

// ---- expert load ----

// A block for each expert, or for each of 64 runs of neighbours: ▄ is the mean, █ twice the mean
// or more, · no choice at all.
std::string blocks(const std::vector<double>& share, double mean) {
  constexpr std::array<std::string_view, 8> levels{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::size_t count = std::min<std::size_t>(share.size(), 64);
  std::string row;
  for (std::size_t b = 0; b < count; ++b) {
    const auto begin = share.begin() + static_cast<std::ptrdiff_t>(b * share.size() / count);
    const auto end = share.begin() + static_cast<std::ptrdiff_t>((b + 1) * share.size() / count);
    const double sum = std::accumulate(begin, end, 0.0);
    const double relative = sum / static_cast<double>(end - begin) / mean;
    const double level = std::clamp(std::round(relative * 4), 1.0, 8.0);
    row += sum > 0 ? levels[static_cast<std::size_t>(level) - 1] : "·";
  }
  return row;
}

// ---- experts by domain ----

// "largest share 0.312 (0.401 in layers.3)  chosen scores 0.62  overlap 0.38"; the last: of the
// mean over the other domains.
std::string use_of_experts(const std::vector<Specialisation>& layers, std::size_t domain) {
  const auto worst = std::ranges::max_element(
      layers, {}, [&](const Specialisation& layer) { return layer.largest(domain); });
  const auto mean = [&](auto of) { return mean_over_layers(layers, of); };
  std::string text =
      fmt::format("largest share {:.3f} ({:.3f} in {})  chosen scores {:.3f}",
                  mean([&](const Specialisation& layer) { return layer.largest(domain); }),
                  worst->largest(domain), layer_name(worst->layer),
                  mean([&](const Specialisation& layer) { return layer.score[domain]; }));
  const std::size_t others = layers[0].share.size() - 1;
  if (others > 0)
    text += fmt::format("  overlap {:.3f}", mean([&](const Specialisation& layer) {
                          const auto& with = layer.overlap[domain];
                          const double all = std::accumulate(with.begin(), with.end(), 0.0);
                          return (all - with[domain]) / double(others);
                        }));
  return text;
}

// ---- samples ----

// Lines of less than `columns` with four spaces before each. `after_prompt` goes between the two;
// the prompt's last character may end in the text.
std::string indented(const TextSample& sample, const std::string& before_prompt,
                     const std::string& after_prompt, int columns) {
  const std::string bytes = sample.prompt + sample.text;
  const std::string margin(4, ' ');
  std::string lines = margin + before_prompt;
  bool is_prompt = true;
  int column = 4;
  for (std::size_t at = 0; at < bytes.size() || is_prompt;) {
    if (is_prompt && at >= sample.prompt.size()) {
      lines += after_prompt;
      is_prompt = false;
      continue;
    }
    const Character character = first_character(std::string_view(bytes).substr(at));
    const bool is_newline = bytes[at] == '\n';
    if (is_newline || column + character.columns >= columns) {
      lines += '\n' + margin;
      column = 4;
    }
    if (bytes[at] == '\t') {
      lines += ' ';
    } else if (!is_newline) {
      lines += character.is_printable ? bytes.substr(at, character.bytes) : "·";
    }
    column += is_newline ? 0 : character.columns;
    at += character.bytes;
  }
  return lines;
}

// ---- summary ----

std::string row(std::string_view name, const std::string& value) {
  return fmt::format("\n  {:<14}{}", name, value);
}

std::string steps_in_words(std::int64_t steps) {
  return fmt::format("{} step{}", steps, steps == 1 ? "" : "s");
}

// "12.3 MiB a step from rank 0: tp 10.2 MiB, cp x dp 2.1 MiB"
std::string sent_in_words(const std::vector<SentBytes>& sent) {
  double sum = 0;
  std::string parts;
  for (const SentBytes& on : sent) {
    sum += double(on.bytes);
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", on.axes, bytes_in_words(on.bytes));
  }
  return fmt::format("{} a step from rank 0: {}", bytes_in_words(std::int64_t(sum)), parts);
}

std::string rows_of_parts(const std::vector<PartTime>& parts) {
  double sum = 0;
  std::size_t longest = 12;
  for (const PartTime& part : parts) {
    sum += part.seconds;
    longest = std::max(longest, part.name.size());
  }
  std::string rows;
  for (const PartTime& part : parts) {
    const double percent = sum > 0 ? 100 * part.seconds / sum : 0;
    rows += fmt::format("\n    {:<{}}{:>8}{:>7.1f}%", part.name, longest,
                        duration_in_words(part.seconds), percent);
  }
  return rows;
}

}  // namespace

Reporter::Reporter(const std::string& folder, std::int64_t steps, std::FILE* out)
    : out_(out),
      steps_(std::max<std::int64_t>(steps, 1)),
      is_terminal_(understands_escapes(out)),
      has_colour_(is_terminal_ && !is_set("NO_COLOR")),
      log_(folder, steps, [this](const std::string& text) { complain(text); }) {}

Reporter::~Reporter() {
  if (bar_is_drawn_) std::fwrite(erase_line.data(), 1, erase_line.size(), out_);
  std::fflush(out_);
}

void Reporter::go_on_after(std::int64_t step) {
  const std::string lacks = log_.go_on_after(step);
  if (!lacks.empty()) line(lacks);
}

void Reporter::line(const std::string& text) {
  print(text);
}

void Reporter::step(const StepReport& report) {
  log_.step(report);
  std::string head, values;
  for (const Cell& cell : cells_of(report, steps_)) {
    head += fmt::format("{:>{}}", cell.head, cell.width);
    values += fmt::format("{:>{}}", cell.value, cell.width);
  }
  if (report.is_skipped)
    values = painted(values + "  skipped: loss or gradients not finite", Style::yellow);
  const bool wants_head = is_terminal_ ? lines_ % steps_between_headers == 0 : lines_ == 0;
  ++lines_;
  bar_step_ = report.step;
  bar_seconds_left_ = report.seconds_left;
  print(wants_head ? painted(head, Style::dim) + '\n' + values : values);
}

void Reporter::evaluation(std::int64_t step, const Heldout& heldout) {
  log_.evaluation(step, heldout);
  for (const bool is_per_token : {false, true}) {
    std::string shown;
    double sum = 0;
    int count = 0;
    for (const DomainBits& domain : heldout.domains) {
      if (domain.is_per_token != is_per_token) continue;
      shown += fmt::format("{}{} {:.4f}", shown.empty() ? "" : ", ", domain.name, domain.bits);
      sum += domain.bits;
      ++count;
    }
    if (count == 0) continue;
    print(fmt::format("held-out after step {}: {} bits per {} ({})", step,
                      painted(fmt::format("{:.4f}", sum / count), Style::bold),
                      is_per_token ? "token" : "byte", shown));
  }
}

void Reporter::expert_load(const std::vector<LayerLoad>& layers) {
  std::string text = painted("expert load", Style::bold) + " (▄ is the mean, █ twice that or more)";
  std::size_t longest = 0;
  for (const LayerLoad& layer : layers) longest = std::max(longest, layer.layer.size());
  for (const LayerLoad& layer : layers) {
    const double sum = std::accumulate(layer.share.begin(), layer.share.end(), 0.0);
    text += fmt::format("\n  {:<{}}  ", layer.layer, longest);
    if (!(sum > 0)) {
      text += "no choices yet";
      continue;
    }
    const double mean = sum / static_cast<double>(layer.share.size());
    const std::int64_t dead = dead_experts(layer);
    text += fmt::format("{}  max/mean {:.2f}", blocks(layer.share, mean), max_over_mean(layer));
    if (dead > 0) text += painted(fmt::format("  {} dead", dead), Style::yellow);
  }
  print(text);
}

void Reporter::specialisation(const Heldout& heldout) {
  if (heldout.experts.empty()) return;
  std::size_t longest = 0;
  for (const DomainBits& domain : heldout.domains) longest = std::max(longest, domain.name.size());
  const double even = 1 / double(heldout.experts[0].share[0].size());
  std::string text = painted("experts by domain", Style::bold) +
                     fmt::format(" (held out; means over layers; an even share is {:.3g})", even);
  for (std::size_t d = 0; d < heldout.domains.size(); ++d)
    text += fmt::format("\n  {:<{}}  {}", heldout.domains[d].name, longest,
                        use_of_experts(heldout.experts, d));
  print(text);
}

void Reporter::samples(const std::vector<TextSample>& samples) {
  // Without colours a mark tells the prompt from the rest.
  const std::string before = has_colour_ ? "\033[2m" : "", after = has_colour_ ? "\033[0m" : "»";
  std::string text = painted("samples", Style::bold) +
                     (has_colour_ ? " (the prompt is dim)" : " (the prompt ends at »)");
  for (const TextSample& sample : samples) {
    text += "\n  " + painted(sample.domain, Style::bold) + '\n' +
            indented(sample, before, after, is_terminal_ ? std::min(columns(), 100) : columns());
  }
  print(text);
}

void Reporter::summary(const Summary& summary) {
  bar_step_ = 0;
  std::string how = summary.ended_by.empty()
                        ? "done: " + steps_in_words(summary.steps)
                        : fmt::format("ended by {} after step {}", summary.ended_by, summary.steps);
  if (summary.resumed_after > 0)
    how += fmt::format(", the last {} of them since it was resumed",
                       summary.steps - summary.resumed_after);
  std::string text = painted(how, Style::bold);
  if (summary.skipped > 0) {
    text += row(
        "skipped",
        painted(steps_in_words(summary.skipped) + ": loss or gradients not finite", Style::yellow));
  }
  text += row("loss", fmt::format("{:.4f} -> {:.4f}", summary.loss_first, summary.loss_last));
  text += row("tokens", fmt::format("{}, {} per second", count_in_words(double(summary.tokens)),
                                    count_in_words(summary.tokens_per_s)));
  text += row("time", fmt::format("{}, the first step after {}", duration_in_words(summary.seconds),
                                  duration_in_words(summary.first_step_s)));
  text += row("memory", fmt::format("{} in tensors per rank, {} resident",
                                    bytes_in_words(summary.peak_bytes_per_rank),
                                    bytes_in_words(summary.peak_resident_bytes)));
  if (!summary.sent.empty()) text += row("sent", sent_in_words(summary.sent));
  if (summary.flops_per_s > 0) {
    std::string speed = fmt::format("{:#.3g} TFLOP/s", summary.flops_per_s / 1e12);
    if (summary.gemm_share > 0)
      speed += fmt::format(", {:.0f}% of this machine's GEMM rate", 100 * summary.gemm_share);
    text += row("speed", speed);
  }
  if (!summary.parts.empty()) text += "\n  where the time went" + rows_of_parts(summary.parts);
  print(text);
}

int Reporter::columns() const {
  return is_terminal_ ? columns_of(out_) : std::numeric_limits<int>::max();
}

std::string Reporter::painted(const std::string& text, Style style) const {
  if (!has_colour_ || style == Style::plain) return text;
  const std::string_view code = style == Style::bold ? "1" : style == Style::dim ? "2" : "33";
  return fmt::format("\033[{}m{}\033[0m", code, text);
}

// Never reaches the last column, where terminals differ in when they wrap.
std::string Reporter::bar() const {
  const double done = std::clamp(double(bar_step_) / double(steps_), 0.0, 1.0);
  const std::string percent = fmt::format(" {:3.0f}% ", std::floor(100 * done));
  const std::string rest =
      fmt::format(" {}/{}  {} left", bar_step_, steps_, duration_in_words(bar_seconds_left_));
  const int room = columns() - 1;
  const int cells = std::min(widest_bar, room - static_cast<int>(percent.size() + rest.size()));
  if (cells < narrowest_bar)
    return (percent + rest).substr(0, static_cast<std::size_t>(std::max(room, 0)));
  const auto full = static_cast<std::int64_t>(done * cells);
  return percent + repeated("━", full) + painted(repeated("─", cells - full), Style::dim) + rest;
}

// One write, so that nothing flickers. Whether anybody reads it is not the run's concern.
void Reporter::print(const std::string& text) {
  std::string bytes(bar_is_drawn_ ? erase_line : "");
  bytes += text + '\n';
  bar_is_drawn_ = is_terminal_ && bar_step_ > 0;
  if (bar_is_drawn_) bytes += bar();
  std::fwrite(bytes.data(), 1, bytes.size(), out_);
  std::fflush(out_);
}

// Below what is there on a terminal, and the bar below that.
void Reporter::complain(const std::string& text) {
  if (bar_is_drawn_) {
    std::fwrite(erase_line.data(), 1, erase_line.size(), out_);
    std::fflush(out_);
    bar_is_drawn_ = false;
  }
  std::fputs(("pentafold: " + text + '\n').c_str(), stderr);
}

}  // namespace pf
