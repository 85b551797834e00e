#include "launch/measured_schedule.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "launch/config.h"
#include "launch/run_mesh.h"
#include "launch/text.h"

namespace pf {
namespace {

using Kind = Action::Kind;
using Json = nlohmann::json;
using Work = std::map<int, std::vector<WorkBox>>;  // by rank of the run

constexpr int most_micro_batches = 1'000'000;  // of a step
constexpr std::string_view how_to_record =
    "; record them with: pentafold train FILE parallel.pp=2 --ranks 2 --profile";

// "forward 1.3".
std::optional<Action> action_of(std::string_view name) {
  Action action;
  const std::size_t space = name.find(' '), point = name.find('.');
  if (space == name.npos || point == name.npos || point < space) return {};
  const auto number = [&](std::size_t begin, std::size_t end, int& out) {
    const auto found = std::from_chars(name.data() + begin, name.data() + end, out);
    return found.ec == std::errc() && found.ptr == name.data() + end && out >= 0 &&
           out < most_micro_batches;
  };
  if (!number(space + 1, point, action.chunk) ||
      !number(point + 1, name.size(), action.micro_batch))
    return {};
  for (const Kind kind :
       {Kind::forward, Kind::backward, Kind::input_gradient, Kind::weight_gradient,
        Kind::send_forward, Kind::receive_forward, Kind::send_backward, Kind::receive_backward})
    if (name.substr(0, space) == pf::name(kind)) {
      action.kind = kind;
      return action;
    }
  return {};
}

// The trace has an event a line.
Work read_work(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  require(file.good(), path, ": ", std::generic_category().message(errno), how_to_record);
  Work work;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.find(R"("cat":"action")") == line.npos) continue;
    if (line.ends_with(',')) line.pop_back();
    const Json event = Json::parse(line, nullptr, false);
    try {
      const std::string name = event.at("name");
      const std::optional<Action> action = action_of(name);
      require(action.has_value(), path, ':', number, ": found the action '", printable(name),
              "', wanted one like 'forward 0.3'");
      if (!is_work(action->kind)) continue;
      const double begin = double(event.at("ts")) / 1000, length = double(event.at("dur")) / 1000;
      work[int(event.at("pid")) - 1].push_back({*action, begin, begin + length});
    } catch (const Json::exception&) {
      throw Error(path + ':' + std::to_string(number) + ": found '" + printable(line) +
                  "', wanted an event with name, pid, ts and dur");
    }
  }
  require(!work.empty(), path, ": has no actions of a pipeline", how_to_record);
  for (auto& [rank, boxes] : work)
    std::ranges::stable_sort(boxes, {}, [](const WorkBox& box) { return box.begin; });
  return work;
}

// The last work of a rank that is in this order.
std::optional<std::vector<WorkBox>> last_step(const std::vector<WorkBox>& boxes,
                                              const std::vector<Action>& actions) {
  std::vector<Action> order;
  std::ranges::copy_if(actions, std::back_inserter(order),
                       [](const Action& a) { return is_work(a.kind); });
  const auto found =
      std::find_end(boxes.begin(), boxes.end(), order.begin(), order.end(),
                    [](const WorkBox& box, const Action& a) { return box.action == a; });
  if (found == boxes.end()) return {};
  return std::vector<WorkBox>(found, found + std::ptrdiff_t(order.size()));
}

void start_at_zero(MeasuredSchedule& measured) {
  double begin = measured.rows[0][0].begin;
  for (const auto& row : measured.rows) begin = std::min(begin, row[0].begin);
  for (auto& row : measured.rows)
    for (WorkBox& box : row) {
      box.begin -= begin;
      box.end -= begin;
      measured.makespan = std::max(measured.makespan, box.end);
    }
}

}  // namespace

MeasuredSchedule measured_schedule(const std::string& run) {
  const std::string path = run + "/trace.json";
  const Work work = read_work(path);
  const config::Config config = load_config(run + "/config.yaml", {}, {nullptr, true});
  int micro_batches = 1;
  for (const auto& [rank, boxes] : work)
    for (const WorkBox& box : boxes)
      micro_batches = std::max(micro_batches, box.action.micro_batch + 1);
  MeasuredSchedule measured;
  measured.schedule = schedule_of_step(shape_of(config, micro_batches), steps_together(config));
  const int stages = measured.schedule.shape.stages;
  for (int stage = 0; stage < stages; ++stage) {
    const int rank = stage * (int(config.parallel().ranks()) / stages);  // stages are outermost
    const auto found = work.find(rank);
    require(found != work.end(), path, ": rank ", rank, " has no actions");
    auto row = last_step(found->second, measured.schedule.ranks[std::size_t(stage)]);
    require(row.has_value(), path, ": rank ", rank, " has no whole step in the order of ",
            text(measured.schedule.shape), "; its first action is ",
            text(found->second.front().action));
    measured.ranks.push_back(rank);
    measured.rows.push_back(std::move(*row));
  }
  start_at_zero(measured);
  return measured;
}

ActionTimes mean_times(const MeasuredSchedule& measured) {
  const auto stages = std::size_t(virtual_stages(measured.schedule.shape));
  ActionTimes times{std::vector<double>(stages), std::vector<double>(stages),
                    std::vector<double>(stages), 0};
  for (std::size_t rank = 0; rank < measured.rows.size(); ++rank)
    for (const WorkBox& box : measured.rows[rank]) {
      auto& list = box.action.kind == Kind::forward           ? times.forward
                   : box.action.kind == Kind::weight_gradient ? times.weight_gradient
                                                              : times.input_gradient;
      list[std::size_t(virtual_stage(measured.schedule.shape, int(rank), box.action.chunk))] +=
          (box.end - box.begin) / measured.schedule.shape.micro_batches;
    }
  return times;
}

}  // namespace pf
