// What a run writes down of each step and evaluation, for programs: metrics.jsonl, and the same
// numbers in an event file for TensorBoard. docs/metrics.md says what the fields mean.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "launch/append_file.h"
#include "launch/tensorboard.h"
#include "models/specialisation.h"

namespace pf {

std::string layer_name(int layer);

struct LayerLoad {
  std::string layer;
  std::vector<double> share;  // of the choices, by expert; sums to 1, or all 0: no choices yet
  std::optional<double> dropped =
      {};  // the share of the choices beyond a capacity, if there is one
};
double max_over_mean(const LayerLoad& load);  // 0 where there are no choices
std::int64_t dead_experts(const LayerLoad& load);

struct PartTime {
  std::string name;
  double seconds = 0;
};

struct SentBytes {
  std::string axes;  // "tp", "cp x dp"
  std::int64_t bytes = 0;
};

struct StepReport {
  std::int64_t step = 0;  // from 1, as people count
  double loss = 0;        // mean cross entropy in nats over the global batch's target tokens
  double balance_loss = 0, z_loss = 0;
  double grad_norm = 0;  // before clipping
  double lr = 0;
  std::int64_t tokens = 0;  // so far
  double tokens_per_s = 0;
  double expert_load = 0;  // largest over mean load of an expert, worst layer; 0: a dense model
  double seconds_left = 0;
  bool is_skipped = false;  // loss or gradients were not finite: weights are as before
  std::vector<LayerLoad> experts;
  std::vector<PartTime> parts;                  // where the step's time went, rank 0
  std::int64_t live_bytes = 0, peak_bytes = 0;  // in tensors, of the rank with most; peak: so far
  std::int64_t resident_bytes = 0;              // of rank 0's process
  std::vector<SentBytes> sent;                  // by rank 0 to others in this step
};

struct DomainBits {
  std::string name;
  double bits = 0;  // per byte
  bool is_per_token = false;
};

// Of held-out text.
struct Heldout {
  std::vector<DomainBits> domains;
  std::vector<Specialisation> experts = {};  // by MoE layer, of these domains
};

double mean_over_layers(const std::vector<Specialisation>& layers,
                        const std::function<double(const Specialisation&)>& of);

class MetricsLog {
 public:
  // Appends to FOLDER/metrics.jsonl. Throws Error naming a file that can't be opened. A file that
  // can't be written later stops nothing: `complain` hears of it once, and what the disk doesn't
  // take is missing. Expert by expert, shares are written about 200 times in `steps`.
  MetricsLog(const std::string& folder, std::int64_t steps,
             std::function<void(const std::string&)> complain);

  // For a run that goes on after `step`, before anything is written. Of metrics.jsonl the lines of
  // steps up to that one stay, each once; a torn line and later ones go, and whenever the process
  // is killed meanwhile, those that stay are there. TensorBoard drops later points. Returns "", or
  // the line that says which steps the file lacks. Throws WriteError naming the file.
  std::string go_on_after(std::int64_t step);

  void step(const StepReport& report);
  void evaluation(std::int64_t step, const Heldout& heldout);

  // What was written to metrics.jsonl lasts on the disk, also if the machine fails: to be called
  // before a checkpoint of a step gets its name. Returns "", or the system's reason why not. Any
  // thread may call it.
  std::string sync();

 private:
  void write(const std::string& object, const EventPoints& points);
  void check(const std::string& path, const std::string& why, bool& has_complained);

  std::string path_;
  std::optional<AppendFile> metrics_;  // always open
  EventFile events_;
  std::int64_t steps_between_shares_;
  std::function<void(const std::string&)> complain_;
  bool has_complained_of_metrics_ = false, has_complained_of_events_ = false;
};

}  // namespace pf
