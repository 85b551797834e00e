#include "launch/check_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/backend.h"
#include "launch/check_traffic.h"
#include "launch/learner.h"
#include "launch/run_mesh.h"
#include "launch/text.h"

namespace pf {
namespace {

double flops_of_step(const config::Config& config) {
  return trained_size(config).flops_per_token *
         double(config.train().global_batch() * config.data().sequence());
}

std::string backend_text(const config::Config& config) {
  return make_cpu_backend(int(config.parallel().threads()))->description();
}

// Which ranks ran, and why these.
std::string ranks_text(const CheckReport& report) {
  std::string ranks;
  for (const RankNeeds& stage : report.stages)
    ranks += (ranks.empty() ? "" : ", ") + fmt::format("{}", stage.rank);
  const std::string backend = backend_text(report.config);
  if (!report.counts.empty())
    return fmt::format(
        "Steps ran without numbers and memory, as on {}, on all ranks, with\n"
        "the routing of {}. Of each stage the rank with the largest peak is shown: {}.\n"
        "Types, shapes and labels are right.\n",
        backend, report.counts, ranks);
  const config::Config& config = report.config;
  const bool is_last = config.model().vocabulary() % config.parallel().tp() != 0;
  return fmt::format(
      "One step ran without numbers and memory, as on {}, on rank{} {}:\n"
      "one of each stage, since the others of a stage hold blocks of the same shapes{}.\n"
      "Its types, shapes and labels are right.\n",
      backend, report.stages.size() == 1 ? "" : "s", ranks,
      is_last ? "\nor, of the vocabulary, smaller ones" : "");
}

std::string heading(const CheckReport& report) {
  const config::Config& config = report.config;
  const ModelSize size = trained_size(config);
  return fmt::format(
             "{}: {} parameters, {} active; {}; {} rank{} ({})\n"
             "{} x {} tokens a step in micro-batches of {}\n",
             config.run().name(), count_in_words(double(size.parameters)),
             count_in_words(double(size.active_parameters)),
             config::Run::Precision_Name(config.run().precision()), config.parallel().ranks(),
             config.parallel().ranks() == 1 ? "" : "s", text(layout_of(config)),
             config.train().global_batch(), config.data().sequence(),
             config.train().micro_batch()) +
         ranks_text(report);
}

std::string memory_table(const std::vector<RankNeeds>& stages) {
  constexpr const char* row =
      "{:>5} {:>6} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>8}\n";
  std::string text =
      fmt::format(row, "stage", "layers", "parameters", "weights", "gradients", "states", "copies",
                  "other", "activations", "buffers", "peak", "FLOPs");
  for (const RankNeeds& s : stages)
    text += fmt::format(row, s.stage, s.layers, count_in_words(double(s.parameters)),
                        bytes_in_words(s.weights), bytes_in_words(s.gradients),
                        bytes_in_words(s.states), bytes_in_words(s.copies), bytes_in_words(s.other),
                        bytes_in_words(s.activations()), bytes_in_words(s.buffers()),
                        bytes_in_words(s.peak), fmt::format("{:.2e}", s.flops));
  return text;
}

// What forward left, by part, and all that backward made. Of what is held between steps, what a
// step adds to it.
std::string column_of(const Purpose& purpose) {
  for (const auto held : {parts::weights, parts::gradients, parts::states, parts::copies})
    if (purpose.part == held) return "+" + std::string(held);
  return purpose.is_backward ? "backward" : std::string(purpose.part);
}

using Row = std::map<std::string, std::int64_t>;

Row activation_row(const RankNeeds& stage) {
  Row row;
  for (const auto& [purpose, bytes] : stage.on_top)
    if (purpose.part != parts::buffers) row[column_of(purpose)] += bytes;
  return row;
}

std::string activation_table(const std::vector<RankNeeds>& stages) {
  std::vector<Row> rows;
  Row largest;
  for (const RankNeeds& stage : stages)
    for (const auto& [column, bytes] : rows.emplace_back(activation_row(stage)))
      largest[column] = std::max(largest[column], bytes);
  std::vector<std::string> columns;
  for (const auto& [column, bytes] : largest) columns.push_back(column);
  std::ranges::stable_sort(columns, std::ranges::greater(),
                           [&](const std::string& column) { return largest[column]; });
  std::string text = fmt::format("{:>5}", "stage");
  for (const std::string& column : columns) text += fmt::format(" {:>10}", column);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    text += fmt::format("\n{:>5}", stages[i].stage);
    for (const std::string& column : columns)
      text += fmt::format(" {:>10}", bytes_in_words(rows[i][column]));
  }
  return text + "\n";
}

std::string activations_text(const std::vector<RankNeeds>& stages) {
  const RankNeeds& most = *std::ranges::max_element(stages, {}, &RankNeeds::most_buffers);
  const std::string buffers = most.most_buffers == 0
                                  ? ""
                                  : fmt::format(
                                        "Buffers of calls between ranks are {} at the most, on "
                                        "stage {}, but seldom at the peak.\n",
                                        bytes_in_words(most.most_buffers), most.stage);
  return "Activations at the peak: what forward left, by part, and what backward works with\n" +
         activation_table(stages) + buffers;
}

std::string saving_text(const std::vector<RankNeeds>& stages) {
  const RankNeeds& most = *std::ranges::max_element(stages, {}, &RankNeeds::saved);
  if (most.saved == 0) return "";
  return fmt::format(
      "A checkpoint is written from a copy (checkpoint.async): {} on top, on stage {}, if there "
      "is\n"
      "room; else training waits.\n",
      bytes_in_words(most.saved), most.stage);
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
  const auto& largest = report.largest_micro_batch;
  std::string text = fmt::format(
      "{} at the most, on stage {}, {} {} (cluster.memory)", bytes_in_words(report.worst().peak),
      report.worst().stage, report.fits() ? "fit into" : "do not fit into", bytes_in_words(memory));
  if (largest)
    text += *largest == 0
                ? "; no train.micro_batch fits"
                : fmt::format("; the largest train.micro_batch that fits is {}", *largest);
  return text + '\n';
}

std::string json_of(const CheckReport& report, const RankNeeds& s) {
  std::string traffic, activations;
  for (const Traffic& t : s.traffic)
    traffic += fmt::format(
        R"({}{{"kind":{},"axes":{},"calls":{},"bytes":{},"groups_leaving_a_node":{}}})",
        traffic.empty() ? "" : ",", json_string(t.kind), json_string(t.axes), t.calls, t.bytes,
        groups_that_leave(layout_of(report.config), t.axes,
                          report.config.cluster().ranks_per_node()));
  for (const auto& [purpose, bytes] : s.on_top)
    if (purpose.part != parts::buffers)
      activations +=
          fmt::format(R"({}{{"part":{},"op":{},"pass":"{}","bytes":{}}})",
                      activations.empty() ? "" : ",", json_string(purpose.part),
                      json_string(purpose.op), purpose.is_backward ? "backward" : "forward", bytes);
  return fmt::format(
      R"({{"stage":{},"rank":{},"layers":{},"parameters":{},"weights_bytes":{},)"
      R"("gradients_bytes":{},"states_bytes":{},"copies_bytes":{},"other_bytes":{},)"
      R"("activations_bytes":{},"activations":[{}],"buffers_bytes":{},"most_buffers_bytes":{},)"
      R"("peak_bytes":{},"saved_bytes":{},"flops":{},"traffic":[{}]}})",
      s.stage, s.rank, s.layers, s.parameters, s.weights, s.gradients, s.states, s.copies, s.other,
      s.activations(), activations, s.buffers(), s.most_buffers, s.peak, s.saved,
      json_number(s.flops), traffic);
}

}  // namespace

const RankNeeds& CheckReport::worst() const {
  return *std::ranges::max_element(stages, {}, &RankNeeds::peak);
}

bool CheckReport::fits() const {
  const std::int64_t memory = config.cluster().memory();
  return memory == 0 || worst().peak <= memory;
}

std::string CheckReport::text() const {
  const double flops = flops_of_step(config);
  return heading(*this) + '\n' + memory_table(stages) + '\n' + activations_text(stages) +
         saving_text(stages) + '\n' + traffic_table(*this) +
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
    memory =
        fmt::format(R"("memory_bytes":{},"fits":{},)", config.cluster().memory(), fits()) +
        (largest_micro_batch ? fmt::format(R"("largest_micro_batch":{},)", *largest_micro_batch)
                             : "");
  return fmt::format(
      R"({{"name":{},"ranks":{},"layout":{},"backend":{},"parameters":{},"active_parameters":{},)"
      R"("flops_per_step":{},"flops_per_rank":{},{}"stages":[{}]}})"
      "\n",
      json_string(config.run().name()), config.parallel().ranks(),
      json_string(pf::text(layout_of(config))), json_string(backend_text(config)), size.parameters,
      size.active_parameters, json_number(flops),
      json_number(flops / double(config.parallel().ranks())), memory, all);
}

CheckReport check(const config::Config& config, const std::string& counts) {
  if (!counts.empty())
    return {config, needs_of_stages(config, recorded_counts(counts, config.parallel().ranks())),
            counts};
  CheckReport report{config, needs_of_stages(config)};
  if (config.cluster().memory() > 0)
    report.largest_micro_batch = largest_micro_batch(config, config.cluster().memory());
  return report;
}

}  // namespace pf
