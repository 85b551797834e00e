#include "launch/metrics_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

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

std::string json_of(const LayerLoad& load, bool with_shares) {
  std::string object =
      fmt::format(R"({{"layer":{},"max_mean":{},"dead":{})", json_string(load.layer),
                  json_number(max_over_mean(load)), dead_experts(load));
  if (with_shares) {
    object += R"(,"share":[)" +
              list_of(load.share,
                      [](double share) {
                        return std::isfinite(share) ? fmt::format("{:.5g}", share) : "null";
                      }) +
              ']';
  }
  return object + '}';
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

}  // namespace

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
    : metrics_(folder + "/metrics.jsonl"),
      events_(folder),
      steps_between_shares_(std::max<std::int64_t>(1, steps / 200)),
      complain_(std::move(complain)) {}

void MetricsLog::step(const StepReport& report) {
  const bool with_shares = report.step % steps_between_shares_ == 0 || report.step == 1;
  write(json_of(report, with_shares), points_of(report, with_shares));
}

void MetricsLog::evaluation(std::int64_t step, const std::vector<DomainBits>& heldout) {
  EventPoints points(step);
  std::vector<DomainBits> of_bytes, of_tokens;
  for (const DomainBits& domain : heldout) {
    points.scalar(
        (domain.is_per_token ? "heldout_bits_per_token/" : "heldout_bits_per_byte/") + domain.name,
        domain.bits);
    (domain.is_per_token ? of_tokens : of_bytes).push_back(domain);
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
  write(object + '}', points);
}

void MetricsLog::write(const std::string& object, const EventPoints& points) {
  check(metrics_.path(), metrics_.append(object + '\n'), has_complained_of_metrics_);
  check(events_.path(), events_.append(points), has_complained_of_events_);
}

void MetricsLog::check(const std::string& path, const std::string& why, bool& has_complained) {
  if (why.empty() || std::exchange(has_complained, true)) return;
  complain_(path + ": can't be written: " + why +
            "; training goes on, and what is not written is missing there");
}

}  // namespace pf
