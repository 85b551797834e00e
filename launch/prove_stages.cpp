#include "launch/prove_stages.h"

#include <fmt/format.h>

#include "core/error.h"
#include "models/pipeline.h"

namespace pf {

const std::vector<config::Parallel::Schedule>& all_schedules() {
  using config::Parallel;
  static const std::vector<Parallel::Schedule> all{
      Parallel::one_f_one_b, Parallel::gpipe, Parallel::interleaved, Parallel::zbh1, Parallel::zbv};
  return all;
}

std::int64_t usual_chunks(config::Parallel::Schedule schedule) {
  return schedule == config::Parallel::interleaved || schedule == config::Parallel::zbv ? 2 : 1;
}

std::int64_t micro_batches_of(const config::Parallel& parallel, std::int64_t least) {
  if (parallel.schedule() != config::Parallel::interleaved) return least;
  return (least + parallel.pp() - 1) / parallel.pp() * parallel.pp();
}

std::string uneven_stage_layers(std::int64_t layers, std::int64_t parts, Dice& dice) {
  require(parts > 1 && layers > parts, "stages: ", layers, " layers in ", parts,
          " parts have no other division than the even one");
  const auto sizes_of = [](const std::vector<LayerRange>& ranges) {
    std::vector<std::int64_t> sizes;
    sizes.reserve(ranges.size());
    for (const LayerRange& range : ranges) sizes.push_back(std::int64_t(range.end - range.begin));
    return sizes;
  };
  const std::vector<std::int64_t> even = sizes_of(divide_layers(layers, int(parts)));
  std::vector<std::int64_t> sizes = even;
  while (sizes == even) {
    sizes.assign(std::size_t(parts), 1);
    for (std::int64_t i = parts; i < layers; ++i) ++sizes[std::size_t(dice.below(parts))];
  }
  std::string text;
  for (const std::int64_t size : sizes) text += (text.empty() ? "" : ",") + std::to_string(size);
  return text;
}

void set_single_stage(config::Parallel& parallel) {
  parallel.set_pp(1);
  parallel.set_schedule(config::Parallel::one_f_one_b);
  parallel.set_chunks(1);
  parallel.set_stage_layers("even");
}

std::string stages_as_overrides(const config::Parallel& parallel) {
  return fmt::format(
      " parallel.pp={} parallel.schedule={} parallel.chunks={} parallel.stage_layers={}",
      parallel.pp(), config::Parallel::Schedule_Name(parallel.schedule()), parallel.chunks(),
      parallel.stage_layers());
}

}  // namespace pf
