#include "launch/check_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "core/backend.h"
#include "core/error.h"
#include "launch/config_fill.h"
#include "launch/layout_rules.h"
#include "launch/learner.h"
#include "launch/run_mesh.h"
#include "launch/terminal.h"
#include "launch/text.h"

namespace pf {
namespace {

// The axes of a set that was written by name().
Axes axes_named(const std::string& text) {
  Axes set;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(" x ", begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (word == "tp") set = set * axes::tp;
    for (int a = 0; a <= int(Axis::ends); ++a)
      if (word == name(Axis(a))) set.push_back(Axis(a));
    begin = end + 3;
  }
  return set;
}

// Of one kind and set of axes, what the stage that sends the most of it does.
std::vector<Traffic> largest_traffic(const std::vector<RankNeeds>& stages) {
  std::vector<Traffic> all;
  for (const RankNeeds& stage : stages) {
    for (const Traffic& traffic : stage.traffic) {
      const auto found = std::ranges::find_if(all, [&](const Traffic& other) {
        return other.kind == traffic.kind && other.axes == traffic.axes;
      });
      if (found == all.end())
        all.push_back(traffic);
      else if (std::pair(traffic.bytes, traffic.calls) > std::pair(found->bytes, found->calls))
        *found = traffic;
    }
  }
  std::ranges::stable_sort(all, std::ranges::greater(), &Traffic::bytes);
  return all;
}

double flops_of_step(const config::Config& config) {
  return trained_size(config).flops_per_token *
         double(config.train().global_batch() * config.data().sequence());
}

std::string backend_text(const config::Config& config) {
  return make_cpu_backend(int(config.parallel().threads()))->description();
}

std::string heading(const config::Config& config, const std::vector<RankNeeds>& stages) {
  const ModelSize size = trained_size(config);
  std::string ranks;
  for (const RankNeeds& stage : stages)
    ranks += (ranks.empty() ? "" : ", ") + fmt::format("{}", stage.rank);
  const bool is_last = config.model().vocabulary() % config.parallel().tp() != 0;
  return fmt::format(
      "{}: {} parameters, {} active; {}; {} rank{} ({})\n"
      "{} x {} tokens a step in micro-batches of {}\n"
      "One step ran without numbers and memory, as on {}, on rank{} {}:\n"
      "one of each stage, since the others of a stage hold blocks of the same shapes{}.\n"
      "Its types, shapes and labels are right.\n",
      config.run().name(), count_in_words(double(size.parameters)),
      count_in_words(double(size.active_parameters)),
      config::Run::Precision_Name(config.run().precision()), config.parallel().ranks(),
      config.parallel().ranks() == 1 ? "" : "s", text(layout_of(config)),
      config.train().global_batch(), config.data().sequence(), config.train().micro_batch(),
      backend_text(config), stages.size() == 1 ? "" : "s", ranks,
      is_last ? "\nor, of the vocabulary, smaller ones" : "");
}

std::string memory_table(const std::vector<RankNeeds>& stages) {
  std::string text = fmt::format("{:>5} {:>6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>11} {:>10}\n",
                                 "stage", "layers", "parameters", "weights", "gradients", "states",
                                 "copies", "activations", "peak");
  for (const RankNeeds& s : stages)
    text +=
        fmt::format("{:>5} {:>6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>11} {:>10}\n", s.stage,
                    s.layers, count_in_words(double(s.parameters)), bytes_in_words(s.weights),
                    bytes_in_words(s.gradients), bytes_in_words(s.states), bytes_in_words(s.copies),
                    bytes_in_words(s.activations()), bytes_in_words(s.peak));
  return text;
}

// Of one call's ranks.
std::string nodes_text(const config::Config& config, const std::string& set) {
  const std::int64_t each = config.cluster().ranks_per_node();
  if (each == 0) return "";
  const int leaving = groups_that_leave(layout_of(config), set, each);
  return leaving == 0
             ? "  stays in a node"
             : fmt::format("  {} group{} a node", leaving, leaving == 1 ? " leaves" : "s leave");
}

std::string traffic_table(const CheckReport& report) {
  const std::vector<Traffic> all = largest_traffic(report.stages);
  if (all.empty()) return "No rank sends anything.\n";
  std::string text = fmt::format("{:<24} {:<18} {:>6} {:>10}\n", "sent by a rank in a step", "axes",
                                 "calls", "bytes");
  for (const Traffic& t : all)
    text += fmt::format("{:<24} {:<18} {:>6} {:>10}{}\n", t.kind, t.axes, t.calls,
                        bytes_in_words(t.bytes), nodes_text(report.config, t.axes));
  return text;
}

std::string verdict(const CheckReport& report) {
  const std::int64_t memory = report.config.cluster().memory();
  if (memory == 0) return "";
  const std::int64_t largest = report.largest_micro_batch;
  return fmt::format("{} at the most, on stage {}, {} {} (cluster.memory); {}\n",
                     bytes_in_words(report.worst().peak), report.worst().stage,
                     report.fits() ? "fit into" : "do not fit into", bytes_in_words(memory),
                     largest == 0
                         ? "no train.micro_batch fits"
                         : fmt::format("the largest train.micro_batch that fits is {}", largest));
}

std::string json_of(const CheckReport& report, const RankNeeds& s) {
  std::string traffic;
  for (const Traffic& t : s.traffic)
    traffic += fmt::format(
        R"({}{{"kind":{},"axes":{},"calls":{},"bytes":{},"groups_leaving_a_node":{}}})",
        traffic.empty() ? "" : ",", json_string(t.kind), json_string(t.axes), t.calls, t.bytes,
        groups_that_leave(layout_of(report.config), t.axes,
                          report.config.cluster().ranks_per_node()));
  return fmt::format(
      R"({{"stage":{},"rank":{},"layers":{},"parameters":{},"weights_bytes":{},)"
      R"("gradients_bytes":{},"states_bytes":{},"copies_bytes":{},"activations_bytes":{},)"
      R"("peak_bytes":{},"traffic":[{}]}})",
      s.stage, s.rank, s.layers, s.parameters, s.weights, s.gradients, s.states, s.copies,
      s.activations(), s.peak, traffic);
}

}  // namespace

int groups_that_leave(const Layout& layout, const std::string& set, std::int64_t ranks_per_node) {
  const Axes axes = axes_named(set);
  const auto has = [&](Axis axis) {
    return std::ranges::find(axes, axis) != axes.end() ||
           (axis == Axis::pp && std::ranges::find(axes, Axis::ends) != axes.end());
  };
  const bool is_expert = has(Axis::etp) || has(Axis::ep) || has(Axis::edp);
  if (ranks_per_node == 0) return 0;
  // Coordinates of the first rank of a group are 0 on `set`; of the last one the largest.
  int leaving = 0;
  for (int first = 0; first < layout.ranks(); ++first) {
    int stride = 1, last = first;
    bool is_first = true;
    for (const Axis axis : axes_of(is_expert ? View::expert : View::dense)) {
      const int size = layout.size(axis);
      if (has(axis)) {
        is_first = is_first && first / stride % size == 0;
        last += (size - 1) * stride;
      }
      stride *= size;
    }
    leaving += is_first && first / ranks_per_node != last / ranks_per_node;
  }
  return leaving;
}

const RankNeeds& CheckReport::worst() const {
  return *std::ranges::max_element(stages, {}, &RankNeeds::peak);
}

bool CheckReport::fits() const {
  const std::int64_t memory = config.cluster().memory();
  return memory == 0 || worst().peak <= memory;
}

std::string CheckReport::text() const {
  const double flops = flops_of_step(config);
  return heading(config, stages) + '\n' + memory_table(stages) + '\n' + traffic_table(*this) +
         fmt::format("\n{:.4g} FLOPs in a step, {:.4g} of each rank on average\n", flops,
                     flops / double(config.parallel().ranks())) +
         verdict(*this);
}

std::string CheckReport::json() const {
  const ModelSize size = trained_size(config);
  const double flops = flops_of_step(config);
  std::string all;
  for (const RankNeeds& stage : stages) all += (all.empty() ? "" : ",") + json_of(*this, stage);
  std::string memory;
  if (config.cluster().memory() > 0)
    memory = fmt::format(R"("memory_bytes":{},"fits":{},"largest_micro_batch":{},)",
                         config.cluster().memory(), fits(), largest_micro_batch);
  return fmt::format(
      R"({{"name":{},"ranks":{},"layout":{},"backend":{},"parameters":{},"active_parameters":{},)"
      R"("flops_per_step":{},"flops_per_rank":{},{}"stages":[{}]}})"
      "\n",
      json_string(config.run().name()), config.parallel().ranks(),
      json_string(pf::text(layout_of(config))), json_string(backend_text(config)), size.parameters,
      size.active_parameters, json_number(flops),
      json_number(flops / double(config.parallel().ranks())), memory, all);
}

CheckReport check(const config::Config& config) {
  CheckReport report{config, needs_of_stages(config), 0};
  if (config.cluster().memory() > 0)
    report.largest_micro_batch = largest_micro_batch(config, config.cluster().memory());
  return report;
}

void CheckCommand::add_to(CLI::App& app) {
  given.add_to(app);
  given.add_threads_to(app);
  app.add_flag("--json", is_json);
}

int CheckCommand::run(int& failure) const {
  require(!given.file.empty(),
          "name the FILE to check, like configs/mixtral_8x22b.yaml (see pentafold --help)");
  Places places{"configuration", {}};
  const config::Config config = load_config(given.file, given.changes(), {.places = &places});
  check_supported(config, places);
  const CheckReport report = check(config);
  failure = 1;
  print(is_json ? report.json() : report.text());
  return report.fits() ? 0 : 1;
}

}  // namespace pf
