#include "launch/metrics_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "launch/metrics_cut.h"
#include "launch/text.h"

namespace pf {
namespace {

// Joined by commas.
template <class T, class F>
std::string list_of(const std::vector<T>& items, F text) {
  std::string all;
  for (const T& item : items) {
    if (!all.empty()) all += ',';
    all += text(item);
  }
  return all;
}

std::string json_of(const std::vector<double>& share) {
  return '[' +
         list_of(share,
                 [](double x) { return std::isfinite(x) ? fmt::format("{:.5g}", x) : "null"; }) +
         ']';
}

std::string json_of(const LayerLoad& load, bool with_shares) {
  std::string object =
      fmt::format(R"({{"layer":{},"max_mean":{},"dead":{})", json_string(load.layer),
                  json_number(max_over_mean(load)), dead_experts(load));
  if (load.dropped) object += R"(,"dropped":)" + json_number(*load.dropped);
  if (with_shares) object += R"(,"share":)" + json_of(load.share);
  return object + '}';
}

// Each pair of domains once.
std::string json_of_overlap(const Specialisation& layer, const std::vector<std::string>& domains) {
  std::string object;
  for (std::size_t d = 0; d + 1 < domains.size(); ++d) {
    object += (d == 0 ? "" : ",") + domains[d] + ":{";
    for (std::size_t o = d + 1; o < domains.size(); ++o)
      object += (o == d + 1 ? "" : ",") + domains[o] + ':' + json_number(layer.overlap[d][o]);
    object += '}';
  }
  return '{' + object + '}';
}

// domains: as JSON strings.
std::string json_of(const Specialisation& layer, const std::vector<std::string>& domains) {
  std::string uses;
  for (std::size_t d = 0; d < domains.size(); ++d)
    uses += fmt::format(R"({}{}:{{"largest":{},"score":{},"share":{}}})", d == 0 ? "" : ",",
                        domains[d], json_number(layer.largest(d)), json_number(layer.score[d]),
                        json_of(layer.share[d]));
  return fmt::format(R"({{"layer":{},"domains":{{{}}},"overlap":{}}})",
                     json_string(layer_name(layer.layer)), uses, json_of_overlap(layer, domains));
}

std::string json_of(const StepReport& report, bool with_shares) {
  std::string object = fmt::format(
      R"({{"step":{},"loss":{},"balance_loss":{},"z_loss":{},"grad_norm":{},"lr":{},"tokens":{},)"
      R"("tokens_per_s":{},"expert_load":{},)",
      report.step, json_number(report.loss), json_number(report.balance_loss),
      json_number(report.z_loss), json_number(report.grad_norm), json_number(report.lr),
      report.tokens, json_number(report.tokens_per_s), json_number(report.expert_load));
  if (!report.experts.empty()) {
    object +=
        R"("experts":[)" +
        list_of(report.experts, [&](const LayerLoad& load) { return json_of(load, with_shares); }) +
        "],";
  }
  object += R"("seconds":{)" +
            list_of(report.parts,
                    [](const PartTime& part) {
                      return json_string(part.name) + fmt::format(":{:.6f}", part.seconds);
                    }) +
            R"(},"sent":{)" +
            list_of(report.sent,
                    [](const SentBytes& sent) {
                      return json_string(sent.axes) + fmt::format(":{}", sent.bytes);
                    }) +
            "},";
  return object + fmt::format(R"("memory":{{"live":{},"peak":{},"resident":{}}},"skipped":{}}})",
                              report.live_bytes, report.peak_bytes, report.resident_bytes,
                              report.is_skipped);
}

EventPoints points_of(const StepReport& report, bool with_shares) {
  EventPoints points(report.step);
  points.scalar("loss/train", report.loss);
  points.scalar("loss/balance", report.balance_loss);
  points.scalar("loss/z", report.z_loss);
  points.scalar("optimizer/grad_norm", report.grad_norm);
  points.scalar("optimizer/lr", report.lr);
  points.scalar("optimizer/skipped", report.is_skipped ? 1 : 0);
  points.scalar("speed/tokens_per_s", report.tokens_per_s);
  for (const LayerLoad& load : report.experts) {
    points.scalar("expert_max_over_mean/" + load.layer, max_over_mean(load));
    points.scalar("dead_experts/" + load.layer, double(dead_experts(load)));
    if (load.dropped) points.scalar("dropped_choices/" + load.layer, *load.dropped);
    if (with_shares) points.histogram("expert_share/" + load.layer, load.share);
  }
  for (const PartTime& part : report.parts) points.scalar("seconds/" + part.name, part.seconds);
  for (const SentBytes& sent : report.sent)
    points.scalar("sent_bytes/" + sent.axes, double(sent.bytes));
  points.scalar("memory/live_bytes", double(report.live_bytes));
  points.scalar("memory/peak_bytes", double(report.peak_bytes));
  points.scalar("memory/resident_bytes", double(report.resident_bytes));
  return points;
}

// Of experts the means over layers: of each layer there would be thousands of scalars.
EventPoints points_of(std::int64_t step, const Heldout& heldout) {
  EventPoints points(step);
  for (std::size_t d = 0; d < heldout.domains.size(); ++d) {
    const DomainBits& domain = heldout.domains[d];
    points.scalar(
        (domain.is_per_token ? "heldout_bits_per_token/" : "heldout_bits_per_byte/") + domain.name,
        domain.bits);
    if (heldout.experts.empty()) continue;
    const auto mean = [&](auto of) { return mean_over_layers(heldout.experts, of); };
    points.scalar("largest_expert_share/" + domain.name,
                  mean([&](const Specialisation& layer) { return layer.largest(d); }));
    points.scalar("chosen_scores/" + domain.name,
                  mean([&](const Specialisation& layer) { return layer.score[d]; }));
    for (std::size_t o = d + 1; o < heldout.domains.size(); ++o)
      points.scalar("expert_overlap/" + domain.name + ", " + heldout.domains[o].name,
                    mean([&](const Specialisation& layer) { return layer.overlap[d][o]; }));
  }
  return points;
}

}  // namespace

std::string layer_name(int layer) {
  return "layers." + std::to_string(layer);
}

double mean_over_layers(const std::vector<Specialisation>& layers,
                        const std::function<double(const Specialisation&)>& of) {
  double sum = 0;
  for (const Specialisation& layer : layers) sum += of(layer);
  return sum / double(layers.size());
}

double max_over_mean(const LayerLoad& load) {
  const double sum = std::accumulate(load.share.begin(), load.share.end(), 0.0);
  if (sum == 0) return 0;
  return *std::max_element(load.share.begin(), load.share.end()) * double(load.share.size()) / sum;
}

std::int64_t dead_experts(const LayerLoad& load) {
  return std::count(load.share.begin(), load.share.end(), 0.0);
}

MetricsLog::MetricsLog(const std::string& folder, std::int64_t steps,
                       std::function<void(const std::string&)> complain)
    : path_(folder + "/metrics.jsonl"),
      metrics_(path_),
      events_(folder),
      steps_between_shares_(std::max<std::int64_t>(1, steps / 200)),
      complain_(std::move(complain)) {}

std::string MetricsLog::go_on_after(std::int64_t step) {
  std::string line = cut_metrics(path_, step);
  metrics_.emplace(path_);
  events_.drop_from(step + 1);
  return line;
}

std::string MetricsLog::sync() {
  return metrics_->sync();
}

void MetricsLog::step(const StepReport& report) {
  const bool with_shares = report.step % steps_between_shares_ == 0 || report.step == 1;
  write(json_of(report, with_shares), points_of(report, with_shares));
}

void MetricsLog::evaluation(std::int64_t step, const Heldout& heldout) {
  std::vector<DomainBits> of_bytes, of_tokens;
  std::vector<std::string> names;
  for (const DomainBits& domain : heldout.domains) {
    (domain.is_per_token ? of_tokens : of_bytes).push_back(domain);
    names.push_back(json_string(domain.name));
  }
  const auto map_of = [](const std::vector<DomainBits>& domains) {
    return '{' +
           list_of(domains,
                   [](const DomainBits& domain) {
                     return json_string(domain.name) + ':' + json_number(domain.bits);
                   }) +
           '}';
  };
  std::string object = fmt::format(R"({{"step":{},"heldout":{})", step, map_of(of_bytes));
  if (!of_tokens.empty()) object += R"(,"heldout_per_token":)" + map_of(of_tokens);
  if (!heldout.experts.empty())
    object += R"(,"experts":[)" +
              list_of(heldout.experts,
                      [&](const Specialisation& layer) { return json_of(layer, names); }) +
              ']';
  write(object + '}', points_of(step, heldout));
}

void MetricsLog::write(const std::string& object, const EventPoints& points) {
  check(path_, metrics_->append(object + '\n'), has_complained_of_metrics_);
  check(events_.path(), events_.append(points), has_complained_of_events_);
}

void MetricsLog::check(const std::string& path, const std::string& why, bool& has_complained) {
  if (why.empty() || std::exchange(has_complained, true)) return;
  complain_(path + ": can't be written: " + why +
            "; training goes on, and what is not written is missing there");
}

}  // namespace pf
