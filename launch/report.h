// What a run shows and writes down: one terminal line a step, a log, a summary.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "launch/metrics_log.h"

namespace pf {

struct TextSample {
  std::string domain, prompt, text;  // bytes
};

struct Summary {
  std::int64_t steps = 0, skipped = 0, tokens = 0;  // of the run, also before it was resumed
  std::int64_t resumed_after = 0;        // the step; times and speeds are of what came after it
  double seconds = 0, tokens_per_s = 0;  // tokens_per_s: median of the steps
  double first_step_s = 0;               // from process start
  std::vector<PartTime>
      parts;               // where the time of the steps went, rank 0; shown as shares of the sum
  double gemm_share = 0;   // of the rate at which this machine does the model's products alone
  double flops_per_s = 0;  // model FLOPs, convention of models/transformer.h
  std::int64_t peak_bytes_per_rank = 0, peak_resident_bytes = 0;
  std::vector<SentBytes> sent;           // by rank 0 in the last step
  double loss_first = 0, loss_last = 0;  // the last: mean of the last 20 steps; both: of the run
  std::string ended_by;                  // empty, or "SIGINT", "train.time_limit" and the like
};

// Only rank 0 has one, and only one thread calls it. On a terminal: aligned columns, colours where
// they help, and a bar with the time left below them that is redrawn in place; in a file: plain
// lines. Honours NO_COLOR and TERM=dumb. That nobody reads `out` any more stops nothing, as long as
// the process ignores SIGPIPE.
class Reporter {
 public:
  // Keeps a MetricsLog in `folder`; what that can't write is said on standard error.
  Reporter(const std::string& folder, std::int64_t steps, std::FILE* out = stdout);
  ~Reporter();  // leaves no bar behind
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  // Of a run that goes on after `step`: as MetricsLog's, and says what it returns.
  void go_on_after(std::int64_t step);
  std::string sync() { return log_.sync(); }  // any thread may call it

  void line(const std::string& text);  // a message between steps
  void step(const StepReport& report);
  void evaluation(std::int64_t step, const Heldout& heldout);
  void expert_load(const std::vector<LayerLoad>& layers);  // a small picture: a row of bars a layer
  void specialisation(const Heldout& heldout);             // a line a domain
  void samples(const std::vector<TextSample>& samples);    // what is not text is shown as ·
  void summary(const Summary& summary);                    // the bar goes for good

 private:
  enum class Style : std::uint8_t { plain, bold, dim, yellow };

  int columns() const;  // of the terminal, now; as good as endless in a file
  std::string painted(const std::string& text, Style style) const;
  std::string bar() const;
  void print(const std::string& text);
  void complain(const std::string& text);

  std::FILE* out_;
  std::int64_t steps_, lines_ = 0;
  bool is_terminal_, has_colour_, bar_is_drawn_ = false;
  std::int64_t bar_step_ = 0;  // 0: no bar
  double bar_seconds_left_ = 0;
  MetricsLog log_;
};

}  // namespace pf
