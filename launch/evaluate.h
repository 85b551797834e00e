// What a model makes of text that it was not trained on.
#pragma once

#include "launch/data.h"
#include "launch/report.h"
#include "models/pipeline.h"

namespace pf {

// What evaluation needs of a run; all ranks of the mesh call with the same arguments.
struct Evaluator {
  const config::Config& config;
  const Mesh& mesh;
  const Data& data;
  Pipeline& pipeline;
  DType type;
  std::int64_t step;

  // Of each source's held-out windows. Replicas divide the windows; all run as many micro-batches,
  // so that collectives inside the model match.
  Heldout heldout() const;

  // Text of train.sample_bytes after the first bytes of each text's held-out part, drawn with
  // train.sample_temperature; every replica draws the same.
  std::vector<TextSample> samples() const;

 private:
  Context context(const Windows& windows) const;
};

}  // namespace pf
