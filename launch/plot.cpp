#include "launch/plot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <system_error>

#include "core/error.h"

namespace pf {
namespace {

constexpr std::size_t most_layers = 7;  // with a line each

ChartLine line_of(const Curve& curve, const std::string& label, std::size_t colour) {
  ChartLine line;
  line.label = label;
  line.x = curve.step;
  line.y = curve.value;
  line.colour = colour;
  return line;
}

void add(Panel& panel, const ChartLine& line, const PlotOptions& options) {
  if (options.is_smooth && line.x.size() > 2) {
    ChartLine raw = line;
    raw.is_faint = true;
    panel.lines.push_back(raw);
    ChartLine mean = line;
    mean.y = smoothed(line.y, std::max(2.0, double(line.y.size()) / 40));
    panel.lines.push_back(mean);
  } else {
    panel.lines.push_back(line);
  }
}

// Of all layers: f over the values of each step.
template <class F>
Curve over_layers(const std::vector<Curve>& layers, const std::string& name, F f) {
  Curve out{name, layers[0].step, {}};
  for (std::size_t i = 0; i < out.step.size(); ++i) {
    std::vector<double> values;
    for (const Curve& layer : layers)
      if (i < layer.value.size()) values.push_back(layer.value[i]);
    out.value.push_back(f(values));
  }
  return out;
}

double largest(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / double(values.size());
}

// Each domain a line, of the runs' curves by domain.
Panel domains_panel(Panel panel, const std::vector<RunMetrics>& runs,
                    std::vector<Curve> RunMetrics::*curves) {
  std::vector<std::string> domains;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    for (const Curve& curve : runs[r].*curves) {
      auto found = std::find(domains.begin(), domains.end(), curve.name);
      if (found == domains.end()) found = domains.insert(found, curve.name);
      const auto domain = std::size_t(found - domains.begin());
      const bool is_one = runs.size() == 1;
      ChartLine line = line_of(curve, is_one ? curve.name : runs[r].name + ", " + curve.name,
                               is_one ? domain : r);
      line.dash = is_one ? domain / most_layers : domain;
      line.has_dots = curve.step.size() <= 60;
      panel.lines.push_back(line);
    }
  }
  return panel;
}

std::string of_run(const char* what, const RunMetrics& run, std::size_t runs) {
  return runs == 1 ? what : run.name + ": " + what;
}

// All layers, or as many that are spread evenly over them.
Panel shares_panel(const RunMetrics& run, std::size_t runs, double top) {
  HeatMap map{run.domains, {}, {}, top};
  for (std::size_t e = 0; e < run.experts[0].share[0].size(); ++e)
    map.columns.push_back(std::to_string(e));
  const std::size_t count = std::min(run.experts.size(), most_layers);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = count == 1 ? 0 : i * (run.experts.size() - 1) / (count - 1);
    map.blocks.push_back({run.experts[at].layer, run.experts[at].share});
  }
  return {of_run("Experts by domain", run, runs),
          "share of its choices; darkest: " + tick_text(std::round(100 * top) / 100),
          {},
          false,
          map};
}

Panel overlap_panel(const RunMetrics& run, std::size_t runs) {
  const std::size_t domains = run.domains.size();
  HeatBlock block{"", std::vector<std::vector<double>>(domains, std::vector<double>(domains))};
  for (const LayerShares& layer : run.experts)
    for (std::size_t d = 0; d < domains; ++d)
      for (std::size_t o = 0; o < domains; ++o)
        block.rows[d][o] += layer.overlap[d][o] / double(run.experts.size());
  return {of_run("Overlap of favourite experts", run, runs),
          "mean over layers",
          {},
          false,
          HeatMap{run.domains, run.domains, {block}, 1}};
}

// Of the runs with experts; of all of one kind beside each other.
std::vector<Panel> domain_panels(const std::vector<RunMetrics>& runs) {
  double top = 0;
  for (const RunMetrics& run : runs)
    for (const LayerShares& layer : run.experts)
      for (const auto& row : layer.share) top = std::max(top, largest(row));
  std::vector<Panel> panels;
  if (top == 0) return panels;
  panels.push_back(
      domains_panel({"Busiest expert of a domain", "share, mean of the layers", {}, false}, runs,
                    &RunMetrics::largest));
  panels.push_back(
      domains_panel({"Chosen scores", "sum of a token's, mean of the layers", {}, false}, runs,
                    &RunMetrics::score));
  for (const RunMetrics& run : runs)
    if (!run.experts.empty()) panels.push_back(shares_panel(run, runs.size(), top));
  for (const RunMetrics& run : runs)
    if (run.domains.size() > 1) panels.push_back(overlap_panel(run, runs.size()));
  return panels;
}

Panel load_panel(const std::vector<RunMetrics>& runs, const PlotOptions& options) {
  Panel panel{"Expert load", "largest over mean", {}, false};
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const std::vector<Curve>& layers = runs[r].max_mean;
    if (layers.empty()) continue;
    if (runs.size() > 1) {
      add(panel, line_of(over_layers(layers, "", largest), runs[r].name + ", worst layer", r),
          options);
    } else if (layers.size() > most_layers) {
      add(panel, line_of(over_layers(layers, "", largest), "worst layer", 4), options);
      add(panel, line_of(over_layers(layers, "", mean), "mean of the layers", 0), options);
    } else {
      for (std::size_t l = 0; l < layers.size(); ++l)
        add(panel, line_of(layers[l], layers[l].name, l), options);
    }
  }
  return panel;
}

void write_file(const std::string& path, const std::string& text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  require(file.good(), path, ": can't be written: ", std::generic_category().message(errno));
}

// Only its own end is kept open here, so that the child sees the end of its input.
int run_with_input(const std::vector<std::string>& command, const std::string& input) {
  std::array<int, 2> ends{};
  require(pipe2(ends.data(), O_CLOEXEC) == 0, "a pipe: ", std::generic_category().message(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
  std::vector<std::string> words = command;
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, words[0].c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[0]);
  for (std::size_t at = 0; error == 0 && at < input.size();) {
    const ssize_t written = write(ends[1], input.data() + at, input.size() - at);
    if (written < 0 && errno != EINTR) break;
    if (written > 0) at += std::size_t(written);
  }
  close(ends[1]);
  if (error != 0) return 127;
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

std::vector<double> smoothed(const std::vector<double>& values, double reach) {
  const double keep = std::exp(-1 / reach);
  std::vector<double> out;
  double sum = 0, weight = 0;
  for (const double value : values) {
    if (std::isfinite(value)) {
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
    }
    out.push_back(std::isfinite(value) ? sum / weight : value);
  }
  return out;
}

std::vector<Panel> panels_of(const std::vector<RunMetrics>& runs, const PlotOptions& options) {
  Panel loss{"Training loss", "nats per token", {}, options.is_log};
  Panel speed{"Throughput", "tokens per second", {}, false};
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const std::string label = runs.size() == 1 ? "" : runs[r].name;
    add(loss, line_of(runs[r].loss, label, r), options);
    add(speed, line_of(runs[r].tokens_per_s, label, r), options);
  }
  const Panel heldout =
      domains_panel({"Held-out text", "bits per byte", {}, false}, runs, &RunMetrics::heldout);
  std::vector<Panel> panels{loss, heldout, speed};
  if (Panel load = load_panel(runs, options); !load.lines.empty()) panels.push_back(load);
  for (const Panel& panel : domain_panels(runs)) panels.push_back(panel);
  return panels;
}

void check_picture_name(const std::string& path) {
  require(path.ends_with(".svg") || path.ends_with(".png"), "--output ", path,
          ": wanted a name that ends in .svg or .png");
}

void write_picture(const std::string& path, const std::string& svg) {
  if (!path.ends_with(".png")) return write_file(path, svg);
  write_file(path, "");  // says why not in our words
  const int code =
      run_with_input({"rsvg-convert", "--zoom", "2", "--format", "png", "--output", path}, svg);
  if (code == 0) return;
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  require(code != 127, path, ": PNG needs rsvg-convert (Debian: apt-get install librsvg2-bin); ",
          "or write an .svg");
  throw Error(path + ": rsvg-convert failed with exit code " + std::to_string(code));
}

}  // namespace pf
