// What a run that goes on keeps of its metrics.jsonl.
#pragma once

#include <cstdint>
#include <string>

namespace pf {

// Cuts the file behind the lines of steps and evaluations up to `step`. A torn line goes too, and
// what is no line of metrics, or of a step that there was already. The lines that stay are in the
// file at any moment. No file counts as an empty one. Returns "", or the line that says which of
// the steps are missing. Throws WriteError naming the file, and Error if it can't be read.
std::string cut_metrics(const std::string& path, std::int64_t step);

}  // namespace pf
