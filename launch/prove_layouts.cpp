#include "launch/prove_layouts.h"

#include <fmt/format.h>

#include "core/error.h"
#include "launch/config_fill.h"
#include "launch/layout_rules.h"
#include "launch/prove_stages.h"
#include "launch/run_mesh.h"

namespace pf {

std::vector<std::int64_t> divisors(std::int64_t of) {
  std::vector<std::int64_t> all;
  for (std::int64_t size = 1; size <= of; ++size)
    if (of % size == 0) all.push_back(size);
  return all;
}

std::string refusal(const config::Config& config) {
  try {
    validate(config);
    check_supported(config, Places{"configuration", {}});
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

namespace {

void use_stage_layers_that_fit(config::Config& config) {
  try {
    stages_of(config);
  } catch (const Error&) {
    config.mutable_parallel()->set_stage_layers("even");
  }
}

// Returns why no schedule goes with this layout, or "". `turn` is where the next layout begins.
std::string choose_schedule(config::Config& config, const std::set<std::string>& fixed,
                            std::size_t& turn) {
  const config::Config given = config;
  const bool is_free = !fixed.contains("parallel.schedule");
  const bool takes_turns = is_free && given.parallel().pp() > 1;
  const std::size_t all = all_schedules().size();
  std::string first_why;
  for (std::size_t i = 0; i < (takes_turns ? all : 1); ++i) {
    config = given;
    config::Parallel& parallel = *config.mutable_parallel();
    if (is_free) parallel.set_schedule(all_schedules()[takes_turns ? (turn + i) % all : 0]);
    if (!fixed.contains("parallel.chunks")) parallel.set_chunks(usual_chunks(parallel.schedule()));
    if (!fixed.contains("parallel.stage_layers")) use_stage_layers_that_fit(config);
    const std::string why = refusal(config);
    if (why.empty()) {
      if (takes_turns) turn += i + 1;
      return "";
    }
    if (i == 0) first_why = why;
  }
  return first_why;
}

}  // namespace

LayoutsOfModel layouts_of(const config::Config& config, const std::set<std::string>& fixed) {
  const config::Parallel& given = config.parallel();
  const auto sizes = [&](const char* key, std::int64_t size, std::int64_t most) {
    return fixed.contains(key) ? std::vector{size} : divisors(most);
  };
  LayoutsOfModel out;
  std::size_t turn = 0;
  const auto add = [&](const config::Config& layout) {
    config::Config one = layout;
    const std::string why = choose_schedule(one, fixed, turn);
    if (why.empty())
      out.legal.push_back(one);
    else
      out.refusals.push_back(why);
  };
  config::Config one = config;
  config::Parallel& parallel = *one.mutable_parallel();
  for (const std::int64_t pp : sizes("parallel.pp", given.pp(), given.ranks())) {
    const std::int64_t ranks = given.ranks() / pp;
    parallel.set_pp(pp);
    for (const std::int64_t tp : sizes("parallel.tp", given.tp(), ranks))
      for (const std::int64_t cp : sizes("parallel.cp", given.cp(), ranks / tp))
        for (const std::int64_t etp : sizes("parallel.etp", given.etp(), ranks))
          for (const std::int64_t ep : sizes("parallel.ep", given.ep(), ranks / etp)) {
            parallel.set_tp(tp);
            parallel.set_cp(cp);
            parallel.set_etp(etp);
            parallel.set_ep(ep);
            add(one);
          }
  }
  return out;
}

std::string axes_text(const config::Config& config) {
  const Layout layout = layout_of(config);
  std::string text =
      fmt::format("tp {}  cp {}  dp {}   etp {}  ep {}  edp {}", layout.share * layout.kv,
                  layout.cp, layout.dp, layout.etp, layout.ep, layout.edp);
  const std::int64_t chunks = config.parallel().chunks();
  if (layout.pp > 1) text += fmt::format("   pp {}  {}", layout.pp, name(schedule_of(config)));
  return layout.pp > 1 && chunks > 1 ? text + fmt::format(" x {}", chunks) : text;
}

}  // namespace pf
