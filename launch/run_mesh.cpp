#include "launch/run_mesh.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "core/error.h"
#include "launch/config_rules.h"
#include "launch/text.h"
#include "optim/optimizer.h"

namespace pf {

DType type_of(config::Run::Precision precision) {
  switch (precision) {
    case config::Run::f64:
      return DType::f64;
    case config::Run::f32:
      return DType::f32;
    case config::Run::bf16:
      return DType::bf16;
  }
  return DType::f32;
}

Layout layout_of(const config::Config& config, std::int64_t ranks) {
  const config::Parallel& p = config.parallel();
  const config::Model& model = config.model();
  return Layout::make(int(ranks), int(p.tp()), int(p.cp()), int(p.ep()), int(p.etp()), int(p.pp()),
                      int(model.has_mla() ? model.heads() : model.kv_heads()));
}

Layout layout_of(const config::Config& config) {
  return layout_of(config, config.parallel().ranks());
}

ModelOptions options_of(const config::Config& config, const Mesh& mesh) {
  return {config.data().sequence(),
          config.train().head_chunk(),
          type_of(config.run().precision()),
          CpMethod(config.parallel().cp_method()),
          Dispatcher(config.parallel().dispatcher()),
          recompute_of(config.train()),
          stages_of_rank(mesh, schedule_of(config), int(config.parallel().chunks()),
                         stages_of(config))};
}

ScheduleKind schedule_of(const config::Config& config) {
  switch (config.parallel().schedule()) {
    case config::Parallel::one_f_one_b:
      return ScheduleKind::one_f_one_b;
    case config::Parallel::gpipe:
      return ScheduleKind::gpipe;
    case config::Parallel::interleaved:
      return ScheduleKind::interleaved;
    case config::Parallel::zbh1:
      return ScheduleKind::zero_bubble_h1;
    case config::Parallel::zbv:
      return ScheduleKind::zero_bubble_v;
  }
  return ScheduleKind::one_f_one_b;
}

ScheduleShape shape_of(const config::Config& config, int micro_batches) {
  return {schedule_of(config), int(config.parallel().pp()), int(config.parallel().chunks()),
          micro_batches};
}

std::int64_t balance_group(const config::Config& config, std::int64_t dp) {
  const config::Balance& balance = config.model().moe().balance();
  return counts_groups(balance) && balance.group() > 0 ? balance.group() : dp;
}

std::int64_t steps_together(const config::Config& config) {
  const bool counts = config.model().has_moe() && counts_groups(config.model().moe().balance());
  if (!counts) return 1;
  const std::int64_t group = config.model().moe().balance().group();
  return std::max<std::int64_t>(1, group / data_parallel_size(config));
}

std::vector<LayerRange> stages_of(const config::Config& config) {
  const config::Parallel& parallel = config.parallel();
  std::vector<std::int64_t> counts;
  const bool is_even = parallel.stage_layers() == "even";
  std::istringstream words(parallel.stage_layers());
  for (std::string word; !is_even && std::getline(words, word, ',');) {
    std::int64_t count = 0;
    const auto begin = word.find_first_not_of(' ');
    const char* end = word.data() + word.size();
    const auto read = std::from_chars(
        word.data() + (begin == std::string::npos ? word.size() : begin), end, count);
    require(read.ec == std::errc() && std::all_of(read.ptr, end, [](char c) { return c == ' '; }),
            "found '", printable(word), "', wanted even, or numbers of layers with commas between");
    counts.push_back(count);
  }
  return divide_layers(layers_of(config.model()), int(parallel.pp() * parallel.chunks()), counts);
}

Sharing sharing_of(const config::Config& config) {
  const std::int64_t zero = config.parallel().zero();
  return {zero == 0 ? 1 : int(config.parallel().zero_shard()),
          [c = config.optimizer()](const Parameter& w) { return needs_matrices(w, c); },
          Divided(std::max<std::int64_t>(zero - 1, 0))};
}

Recompute recompute_of(const config::Train& train) {
  return {Recompute::Kind(train.recompute()), train.recompute_layers()};
}

}  // namespace pf
