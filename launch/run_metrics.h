// What a run has written down, read back.
#pragma once

#include <string>
#include <vector>

namespace pf {

// Values by step; not a number where there is none.
struct Curve {
  std::string name;
  std::vector<double> step, value;

  void add(double at, double y) {
    step.push_back(at);
    value.push_back(y);
  }
};

// Of the last evaluation: what each domain's tokens chose in a MoE layer.
struct LayerShares {
  std::string layer;
  std::vector<std::vector<double>> share;    // by domain and expert
  std::vector<std::vector<double>> overlap;  // of two domains' most chosen experts
};

struct RunMetrics {
  std::string name;
  Curve loss{"loss", {}, {}}, tokens_per_s{"tokens/s", {}, {}};
  std::vector<Curve> heldout;   // by domain: bits per byte
  std::vector<Curve> max_mean;  // by MoE layer: largest over mean load of an expert
  // By domain of held-out text, means over layers: the busiest expert's share, and chosen scores.
  std::vector<Curve> largest, score;
  std::vector<std::string> domains;  // of `experts`
  std::vector<LayerShares> experts;
};

// Of RUN/metrics.jsonl, or of a file. A last line without its end is of a run that goes on, and
// left out. Throws Error naming the file and the line that is not as it should be.
RunMetrics read_metrics(const std::string& run);

}  // namespace pf
