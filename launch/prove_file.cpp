#include "launch/prove_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>

#include "core/error.h"
#include "launch/config_fill.h"
#include "launch/config_rules.h"
#include "launch/job_shrink.h"
#include "launch/layout_rules.h"
#include "launch/prove_case.h"
#include "launch/rank_limits.h"
#include "launch/terminal.h"
#include "launch/text.h"
#include "models/transformer.h"

namespace pf {
namespace {

constexpr std::int64_t most_ranks = 64;  // of all layouts
constexpr std::int64_t most_parameters = 4'000'000;

std::string too_many(std::int64_t found, const std::string& of, std::int64_t most) {
  return "found " + count_in_words(double(found)) + of + ", wanted at most " +
         count_in_words(double(most));
}

std::int64_t parameters_of(const config::Config& config) {
  return model_size(config.model(), config.data().sequence()).parameters;
}

std::int64_t tokens_of(const config::Config& config) {
  return config.data().sequence() * config.train().global_batch();
}

void check_model_is_small(const config::Config& config, const Places& places) {
  const std::int64_t size = parameters_of(config);
  if (size > most_parameters)
    places.fail("model", too_many(size, " parameters", most_parameters) +
                             ": each layout computes it in f64, on ranks that share this machine. "
                             "Make it smaller for the proof, for instance model.hidden=64 "
                             "model.layers=2, or with fewer model.moe.experts or a smaller "
                             "model.vocabulary");
}

void check_ranks_of_all(const config::Config& config, const Places& places) {
  const std::int64_t ranks = config.parallel().ranks();
  if (ranks < 2 || ranks > most_ranks)
    places.fail("parallel.ranks", "found " + std::to_string(ranks) + ", wanted 2 to " +
                                      std::to_string(most_ranks) +
                                      " ranks to compare with one, for instance --ranks 8");
}

std::set<std::string> keys_of(const std::vector<std::string>& overrides) {
  config::Config given;
  Places places;
  for (const std::string& change : overrides) fill_from_override(given, change, places);
  std::set<std::string> keys;
  for (const auto& [key, place] : places.by_key) keys.insert(key);
  return keys;
}

// Keys that fit a number of stages, which is not known when the file is read.
bool is_of_stages(const std::string& change) {
  return change.starts_with("parallel.schedule=") || change.starts_with("parallel.chunks=") ||
         change.starts_with("parallel.stage_layers=");
}

FileToProve load(const std::string& path, const std::vector<std::string>& overrides,
                 Places& places) {
  std::vector<std::string> all{"parallel.tp=1",     "parallel.cp=1",
                               "parallel.ep=1",     "parallel.etp=1",
                               "parallel.pp=1",     "parallel.schedule=one_f_one_b",
                               "parallel.chunks=1", "parallel.stage_layers=even",
                               "cluster.device=cpu"};
  std::ranges::copy_if(overrides, std::back_inserter(all), std::not_fn(is_of_stages));
  FileToProve file{load_config(path, all, {&places, true}), keys_of(overrides), false,
                   std::nullopt};
  file.has_group = places.by_key.contains("model.moe.balance.group");
  for (const std::string& change : overrides)
    if (is_of_stages(change)) fill_from_override(file.config, change, places);
  check_supported(file.config, places);
  return file;
}

// What the file says of a schedule stays, unless an override says otherwise; its division of layers
// is for layouts that it fits.
void keep_stages_of_file(FileToProve& file, const std::string& path) {
  const config::Config written = keys_in_file(path);
  const config::Parallel& of_file = written.parallel();
  config::Parallel& parallel = *file.config.mutable_parallel();
  const auto is_free = [&](const char* key) { return !file.given.contains(key); };
  if (of_file.has_stage_layers() && is_free("parallel.stage_layers"))
    parallel.set_stage_layers(of_file.stage_layers());
  if (!of_file.has_schedule() || !is_free("parallel.schedule")) return;
  parallel.set_schedule(of_file.schedule());
  file.given.insert("parallel.schedule");
  if (!of_file.has_chunks() || !file.given.insert("parallel.chunks").second) return;
  parallel.set_chunks(of_file.chunks());
}

// Divides and is divided by the replicas of every layout.
std::int64_t shared_group(const config::Config& config) {
  const std::int64_t size = config.train().micro_batch();
  return std::gcd((config.train().global_batch() + size - 1) / size, config.parallel().ranks());
}

// What ranks that are threads of this machine, in f64, need of it.
void check_ranks_of_job(config::Config config, const Places& places) {
  const std::int64_t ranks = config.parallel().ranks();
  if (ranks < 2)
    places.fail("parallel.ranks", "found " + std::to_string(ranks) +
                                      ", wanted the ranks of a job, to compare them with one");
  config.mutable_run()->set_precision(config::Run::f64);
  try {
    check_ranks(config, this_machine(config, nullptr));
  } catch (const Error& error) {
    places.fail("parallel.ranks", error.what());
  }
}

FileToProve job_to_prove(const std::string& path, const std::vector<std::string>& overrides) {
  Places places;
  std::vector<std::string> all{"cluster.device=cpu"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  const config::Config job = load_config(path, all, {&places});
  check_supported(job, places);
  const config::Config small = shrink_job(job);
  check_model_is_small(small, places);
  check_ranks_of_job(small, places);
  return {small, {}, true, job};
}

std::string size_of(const config::Config& config) {
  const ModelSize size = model_size(config.model(), config.data().sequence());
  std::string text =
      fmt::format("{} parameters, {} x {} tokens a step", count_in_words(double(size.parameters)),
                  config.train().global_batch(), config.data().sequence());
  if (config.model().has_moe() && counts_groups(config.model().moe().balance()))
    text += fmt::format(", balance.group {}", config.model().moe().balance().group());
  return text;
}

// "model.hidden  6144  10"
std::string table_of(const std::vector<ChangedKey>& changes) {
  std::array<std::size_t, 2> width{};
  for (const ChangedKey& change : changes)
    width = {std::max(width[0], change.key.size()), std::max(width[1], change.job.size())};
  std::string text = fmt::format("{:<{}}  {:>{}}  here\n", "key", width[0], "job", width[1]);
  for (const ChangedKey& change : changes)
    text += fmt::format("{:<{}}  {:>{}}  {}\n", change.key, width[0], change.job, width[1],
                        change.here);
  return text;
}

}  // namespace

FileToProve file_to_prove(const std::string& path, const std::vector<std::string>& overrides) {
  Places places;
  FileToProve file = load(path, overrides, places);
  if (parameters_of(file.config) > most_parameters || tokens_of(file.config) > most_tokens)
    return job_to_prove(path, overrides);
  check_ranks_of_all(file.config, places);
  keep_stages_of_file(file, path);
  const bool counts =
      file.config.model().has_moe() && counts_groups(file.config.model().moe().balance());
  if (counts && !file.has_group)
    file.config.mutable_model()->mutable_moe()->mutable_balance()->set_group(
        shared_group(file.config));
  return file;
}

FileToProve file_to_draw(const std::string& path, const std::vector<std::string>& overrides) {
  // What layouts are legal is seen when one is drawn.
  std::vector<std::string> of_layout,
      others{"parallel.ranks=1", "parallel.zero=0", "parallel.zero_shard=0"};
  for (const std::string& change : overrides)
    (change.starts_with("parallel") ? of_layout : others).push_back(change);
  Places places;
  FileToProve file = load(path, others, places);
  check_model_is_small(file.config, places);
  for (const std::string& change : of_layout) fill_from_override(file.config, change, places);
  file.config.mutable_train()->clear_ramp();
  file.given = keys_of(overrides);
  return file;
}

LayoutsOfModel layouts_to_prove(const FileToProve& file) {
  if (file.job) return {{file.config}, {}};
  LayoutsOfModel layouts = layouts_of(file.config, file.given);
  require(!layouts.legal.empty(), "no layout of ", file.config.parallel().ranks(),
          " ranks is legal; the first one is not because of ",
          layouts.refusals.empty() ? "parallel.ranks, which its axes do not divide"
                                   : layouts.refusals.front());
  return layouts;
}

std::string heading_of(const FileToProve& file, const std::string& precision) {
  const std::string what = fmt::format("{}; {}, {} ranks against 1\n", size_of(file.config),
                                       precision, file.config.parallel().ranks());
  if (!file.job) return fmt::format("{}: {}", file.config.run().name(), what);
  return fmt::format(
      "{}: {}, too large to compute here.\nIts layout with the smallest sizes that "
      "are cut like the job's:\n\n{}\n{}",
      file.config.run().name(), size_of(*file.job), table_of(changed_keys(*file.job, file.config)),
      what);
}

Descent one_rank_of(const FileToProve& file) {
  Descent one_rank = descend(on_one_rank(file.config));
  const StepOutcome& last = one_rank.steps.back();
  require(std::isfinite(last.sum() + last.norm), "one rank has loss ", last.loss,
          " and gradient norm ", last.norm, " at step ", one_rank.steps.size(),
          "; there is nothing to compare with. Try a smaller model.init_std");
  return one_rank;
}

bool prove_layouts(const LayoutsOfModel& layouts, const Descent& one_rank) {
  std::size_t failed = 0;
  Proof worst;
  const config::Config* where = nullptr;
  for (const config::Config& config : layouts.legal) {
    const Proof proof = prove(config, one_rank);
    const bool is_worse = !proof.error.empty() || proof.worst.distance >= worst.worst.distance;
    print(fmt::format("{}   {}{}\n", axes_text(config), proof.text(),
                      proof.holds() ? "" : "   DIFFERS"));
    failed += proof.holds() ? 0 : 1;
    if (!is_worse || !worst.error.empty()) continue;
    worst = proof;
    where = &config;
  }
  const std::size_t all = layouts.legal.size();
  std::string refused;
  if (!layouts.refusals.empty())
    refused = fmt::format("; {} more are not legal", layouts.refusals.size());
  if (failed == 0) {
    print(fmt::format("proven: {} layout{} one rank within {:.0e}, the worst {:.1e} ({}){}\n", all,
                      all == 1 ? " is" : "s are", proof_bound, worst.worst.distance,
                      worst.worst.where, refused));
  } else {
    print(fmt::format("NOT PROVEN: {} of {} layouts differ from one rank; the worst, {}:\n  {}{}\n",
                      failed, all, axes_text(*where), worst.text(), refused));
    if (worst.error.empty())
      print(fmt::format("  {}\n", rounding_text(worst, rounding_of(*where, one_rank))));
  }
  return failed == 0;
}

}  // namespace pf
