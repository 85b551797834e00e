#include "launch/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "launch/evaluate.h"
#include "launch/gemm_rate.h"
#include "launch/process.h"
#include "launch/ramp.h"
#include "launch/rank_limits.h"
#include "launch/run_mesh.h"
#include "launch/sent_bytes.h"
#include "launch/signals.h"
#include "launch/text.h"
#include "launch/time_limit.h"
#include "launch/version.h"
#include "optim/schedule.h"

namespace pf {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// By MoE layer: the share of choices that went to each expert.
std::vector<LayerLoad> loads_of(const StepStatistics& statistics) {
  std::vector<LayerLoad> loads;
  for (std::size_t i = 0; i < statistics.expert_counts.size(); ++i) {
    LayerLoad load{layer_name(statistics.moe_layers[i]), statistics.expert_counts[i]};
    if (!statistics.dropped.empty()) load.dropped = statistics.dropped[i];
    const double total = std::accumulate(load.share.begin(), load.share.end(), 0.0);
    for (double& share : load.share) share = total == 0 ? 0 : share / total;
    loads.push_back(std::move(load));
  }
  return loads;
}

// Threads are pinned only where every rank's have processors of their own, and not under MPI, whose
// launcher binds processes.
int first_processor(const config::Parallel& parallel, int rank, const Mpi* mpi) {
  if (mpi != nullptr) return -1;
  const std::int64_t wanted = parallel.ranks() * parallel.threads();
  return wanted <= std::int64_t(std::thread::hardware_concurrency())
             ? rank * int(parallel.threads())
             : -1;
}

std::vector<int> all_ranks(int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

// "tp 2, dp 1, ep 2": those above 1, and dp.
std::string sizes_of(const Mesh& mesh) {
  std::string out;
  for (const Axes& set : {axes::tp, axes::cp, axes::dp, axes::etp, axes::ep, axes::pp})
    if (mesh.size(set) > 1 || set == axes::dp)
      out += (out.empty() ? "" : ", ") + name(set) + " " + std::to_string(mesh.size(set));
  return out;
}

// "11.5M parameters, 4.40M active, 0.30M trained; bf16; 2 ranks (dp 2) on CPU; 16 x 256 tokens a
// step"
std::string describe(const config::Config& c, const Mesh& mesh, const std::string& device) {
  const ModelSize size = trained_size(c);
  std::ostringstream out;
  out << c.run().name() << ": " << count_in_words(double(size.parameters)) << " parameters";
  if (size.active_parameters != size.parameters)
    out << ", " << count_in_words(double(size.active_parameters)) << " active";
  const std::string trained = count_in_words(double(size.trained_parameters));
  if (trained != count_in_words(double(size.parameters))) out << ", " << trained << " trained";
  out << "; " << config::Run::Precision_Name(c.run().precision()) << "; " << mesh.size()
      << (mesh.size() == 1 ? " rank" : " ranks") << " (" << sizes_of(mesh)
      << (c.parallel().zero() > 0 ? ", zero " + std::to_string(c.parallel().zero()) : "") << ") on "
      << device << "; " << c.train().global_batch() << " x " << c.data().sequence()
      << " tokens a step";
  return out.str();
}

}  // namespace

Trainer::Trainer(const TrainerParts& parts, Communicator& communicator, Reporter* reporter)
    : config_(parts.config),
      data_(parts.data),
      lock_(parts.lock),
      reporter_(reporter),
      profiled_(parts.profiled),
      device_(make_cpu_backend(int(config_.parallel().threads()),
                               first_processor(config_.parallel(), communicator.rank(), parts.mpi)),
              memory_of_rank(config_, this_machine(config_, parts.mpi))),
      mesh_(communicator, device_, layout_of(config_), all_ranks(communicator.size())),
      learner_(config_, mesh_,
               [this](std::int64_t first, std::int64_t count) {
                 return data_.samples(std::uint64_t(first), count);
               }),
      saver_(config_, mesh_, learner_, parts.writer, reporter) {
  if (reporter_ != nullptr)
    reporter_->line(describe(config_, mesh_, device_.backend().description()));
  if (!parts.checkpoint.empty()) restore(Checkpoint(parts.checkpoint));
}

// Asked at the end of a step.
int Trainer::wants_end() const {
  if (reporter_ == nullptr) return pending_signal();
  TimeSpent spent{.since_start = seconds_since_process_start(), .slowest_step = slowest_step_};
  if (saver_.saved_step() >= 0) spent.last_save = saver_.seconds();
  return must_end(spent, config_.train().time_limit()) ? time_is_up : pending_signal();
}

void Trainer::restore(const Checkpoint& checkpoint) {
  const std::map<std::string, std::int64_t>& counts = checkpoint.facts().counts;
  learner_.restore(checkpoint);
  first_step_ = checkpoint.step();
  losses_ = checkpoint.facts().lists.at("losses");
  summary_.skipped = counts.at("skipped");
  skipped_in_a_row_ = counts.at("skipped_in_a_row");
  evaluated_step_ = counts.at("evaluated_step");
}

// After `step` steps.
void Trainer::save(std::int64_t step) {
  times_.enter("checkpoint");
  CheckpointFacts facts;
  const std::int64_t samples = batch_of(config_.train(), step).first;
  facts.counts = {{"step", step},
                  {"samples", samples},
                  {"tokens", samples * config_.data().sequence()},
                  {"optimizer_steps", learner_.optimizer_steps()},
                  {"skipped", summary_.skipped},
                  {"skipped_in_a_row", skipped_in_a_row_},
                  {"evaluated_step", evaluated_step_}};
  if (reporter_ != nullptr) {  // writes them
    facts.texts = {{"config", to_yaml(config_)},
                   {"data", data_.fingerprints()},
                   {"program", version},
                   {"layout", text(mesh_.layout())}};
    facts.lists = {{"losses", losses_}};
  }
  saver_.save(std::move(facts));
  times_.stop();
}

// The run ends here: without its checkpoint it would be lost.
void Trainer::save_last(std::int64_t step) {
  if (config_.checkpoint().every() == 0) return;
  saver_.finish();
  if (saver_.saved_step() != step) save(step);
  saver_.finish();
  const std::int64_t saved = std::max(saver_.saved_step(), first_step_);
  require(saver_.saved_step() == step, "the last checkpoint, of step ", step,
          ", can't be saved: ", saver_.failure(), saved == 0 ? "; there is none" : "",
          saved == 0 ? "" : "; the newest is of step " + std::to_string(saved));
}

Trainer::Taken Trainer::take_step(std::int64_t step) {
  const std::vector<PartTime> earlier = times_.parts();
  const std::vector<SentBytes> sent_before = sent_bytes(mesh_.communicator().traffic());
  const std::vector<Statistics> statistics =
      learner_.run(step, [this](const char* part) { times_.enter(part); });
  times_.enter("reduction");
  const double norm = learner_.gradients().finish();
  times_.enter("metrics");
  Taken taken;
  taken.statistics = over_mesh(mesh_, learner_.model().moe_layers(), statistics, wants_end());

  StepReport& report = taken.report;
  report.step = step + 1;
  report.loss = taken.statistics.loss;
  report.balance_loss = taken.statistics.balance_loss;
  report.z_loss = taken.statistics.z_loss;
  report.grad_norm = norm;
  report.lr = learning_rate(config_.optimizer(), step, config_.train().steps());
  report.tokens = batch_of(config_.train(), step + 1).first * config_.data().sequence();
  const double sum = report.loss + report.balance_loss + report.z_loss + norm;
  report.is_skipped = !std::isfinite(sum);
  if (!report.is_skipped) {
    times_.enter("optimizer");
    const double clip = config_.train().clip();
    learner_.change_weights(report.lr, clip > 0 && norm > clip ? clip / norm : 1,
                            taken.statistics.expert_counts);
  }
  report.experts = loads_of(taken.statistics);
  for (const LayerLoad& load : report.experts)
    report.expert_load = std::max(report.expert_load, max_over_mean(load));
  const std::vector<std::int64_t> bytes = largest_over_mesh(
      mesh_, {std::int64_t(device_.memory().live), std::int64_t(device_.memory().peak)});
  report.live_bytes = bytes[0];
  report.peak_bytes = bytes[1];
  report.resident_bytes = resident_bytes();
  times_.stop();
  report.parts = since(earlier, times_.parts());
  report.sent = since(sent_before, sent_bytes(mesh_.communicator().traffic()));
  return taken;
}

// Ranks start their clocks together: after a call that none leaves before all have made it.
Trainer::Taken Trainer::take_profiled_step(std::int64_t step) {
  constexpr std::size_t most_events = 400'000;  // of a rank: some 60 MB
  if (!trace_) {
    trace_.emplace(most_events);
    largest_over_mesh(mesh_, {0});
    trace_begin_ = Trace::now();
  }
  const Trace::Recording on(&*trace_);
  const Span span("step", "step ", std::to_string(step + 1));
  return take_step(step);
}

void Trainer::end_profile() {
  const std::string line =
      write_trace(mesh_.communicator(), config_.run().folder(), *trace_, trace_begin_);
  trace_.reset();
  if (reporter_ != nullptr) reporter_->line(line);
}

int Trainer::run() {
  const std::int64_t steps = config_.train().steps();
  const auto tokens_before = [&](std::int64_t step) {
    return batch_of(config_.train(), step).first * config_.data().sequence();
  };
  StepStatistics last;
  int signal = 0;
  const auto begin = Clock::now();
  const auto is_due = [&](std::int64_t step, std::int64_t every) {
    return signal == 0 && every > 0 && step % every == 0 && step < steps;
  };
  const std::int64_t evaluate_every = config_.train().evaluate_every();
  // What a signal left out.
  if (is_due(first_step_, evaluate_every) && evaluated_step_ < first_step_)
    evaluate(first_step_, false);
  for (std::int64_t step = first_step_; step < steps && signal == 0; ++step) {
    const auto step_begin = Clock::now();
    const bool is_profiled = step + 1 >= profiled_.first && step < profiled_.last;
    Taken taken = is_profiled ? take_profiled_step(step) : take_step(step);
    saver_.poll();
    if (reporter_ != nullptr && lock_ != nullptr) lock_->check();
    const double seconds = seconds_since(step_begin);
    const StepBatch batch = batch_of(config_.train(), step);
    if (step > first_step_ && batch.size != batch_of(config_.train(), step - 1).size)
      step_seconds_.clear();
    step_seconds_.push_back(seconds);
    if (step == first_step_) summary_.first_step_s = seconds_since_process_start();
    StepReport& report = taken.report;
    report.tokens_per_s = double(batch.size * config_.data().sequence()) / seconds;
    report.seconds_left = seconds_since(begin) * double(tokens_before(steps) - report.tokens) /
                          double(report.tokens - tokens_before(first_step_));
    if (reporter_ != nullptr) reporter_->step(report);
    losses_.push_back(report.loss);
    summary_.sent = report.sent;
    summary_.tokens = report.tokens;
    summary_.steps = step + 1;
    last = std::move(taken.statistics);

    skipped_in_a_row_ = report.is_skipped ? skipped_in_a_row_ + 1 : 0;
    summary_.skipped += report.is_skipped;
    require(skipped_in_a_row_ < config_.train().max_skipped(), "step ", step + 1, ": loss ",
            report.loss, " and gradient norm ", report.grad_norm, " are not finite, for the ",
            skipped_in_a_row_,
            "th time in a row (train.max_skipped); lower optimizer.lr, or look at ",
            "the data of samples ", batch.first, " and on");
    signal = last.signal;
    if (trace_ && (signal != 0 || step + 1 == profiled_.last)) end_profile();
    if (is_due(step + 1, evaluate_every)) evaluate(step + 1, false);
    if (is_due(step + 1, config_.checkpoint().every())) save(step + 1);
    slowest_step_ = std::max(slowest_step_, seconds_since(step_begin));
  }
  if (summary_.steps == steps) evaluate(steps, true);
  learner_.gradients().wait_for_values();
  save_last(summary_.steps);
  summary_.seconds = seconds_since(begin);
  summarise(last, signal);
  return signal;
}

void Trainer::evaluate(std::int64_t step, bool is_last) {
  times_.enter("evaluation");
  const Evaluator evaluator{
      config_, mesh_, data_, learner_.pipeline(), type_of(config_.run().precision()), step};
  heldout_ = evaluator.heldout();
  evaluated_step_ = step;
  if (reporter_ != nullptr && !heldout_.domains.empty()) reporter_->evaluation(step, heldout_);
  if (is_last && config_.train().sample_bytes() > 0) {
    const std::vector<TextSample> samples = evaluator.samples();
    if (reporter_ != nullptr && !samples.empty()) reporter_->samples(samples);
  }
  times_.stop();
}

void Trainer::summarise(const StepStatistics& last, int signal) {
  const std::int64_t size = config_.train().micro_batch(), length = config_.data().sequence();
  const std::int64_t batch = batch_of(config_.train(), summary_.steps - 1).size;
  const double count = double(batch) / double(size * mesh_.size(axes::dp));  // of each replica
  summary_.peak_bytes_per_rank = std::int64_t(device_.memory().peak);
  // All ranks measure at once, as they trained.
  const double gemm =
      gemm_seconds(learner_.model().layers(), learner_.gradients(), mesh_, size * length,
                   config_.model().moe().top_k(), type_of(config_.run().precision())) *
      count;
  if (reporter_ == nullptr) return;
  std::ranges::sort(step_seconds_);
  const double median = step_seconds_[step_seconds_.size() / 2];
  const auto tail = std::min<std::ptrdiff_t>(20, std::ptrdiff_t(losses_.size()));
  summary_.tokens_per_s = double(batch * length) / median;
  summary_.gemm_share = gemm / median;
  summary_.flops_per_s = summary_.tokens_per_s * trained_size(config_).flops_per_token;
  summary_.parts = times_.parts();
  summary_.peak_resident_bytes = peak_resident_bytes();
  summary_.loss_first = losses_.front();
  summary_.loss_last = std::accumulate(losses_.end() - tail, losses_.end(), 0.0) / double(tail);
  summary_.resumed_after = first_step_;
  if (signal != 0)
    summary_.ended_by = signal == time_is_up ? "train.time_limit" : signal_name(signal);
  const std::vector<LayerLoad> loads = loads_of(last);
  if (!loads.empty()) reporter_->expert_load(loads);
  reporter_->specialisation(heldout_);
  reporter_->summary(summary_);
}

}  // namespace pf
