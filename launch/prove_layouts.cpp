#include "launch/prove_layouts.h"

#include <fmt/format.h>

#include "core/error.h"
#include "launch/config_fill.h"
#include "launch/layout_rules.h"
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

LayoutsOfModel layouts_of(const config::Config& config, const std::set<std::string>& fixed) {
  const config::Parallel& given = config.parallel();
  const std::int64_t ranks = given.ranks();
  const auto sizes = [&](const char* key, std::int64_t size, std::int64_t most) {
    return fixed.contains(key) ? std::vector{size} : divisors(most);
  };
  LayoutsOfModel out;
  for (const std::int64_t tp : sizes("parallel.tp", given.tp(), ranks))
    for (const std::int64_t cp : sizes("parallel.cp", given.cp(), ranks / tp))
      for (const std::int64_t etp : sizes("parallel.etp", given.etp(), ranks))
        for (const std::int64_t ep : sizes("parallel.ep", given.ep(), ranks / etp)) {
          config::Config one = config;
          config::Parallel& parallel = *one.mutable_parallel();
          parallel.set_tp(tp);
          parallel.set_cp(cp);
          parallel.set_etp(etp);
          parallel.set_ep(ep);
          const std::string why = refusal(one);
          if (why.empty())
            out.legal.push_back(one);
          else
            out.refusals.push_back(why);
        }
  return out;
}

std::string axes_text(const config::Config& config) {
  const Layout layout = layout_of(config);
  std::string text =
      fmt::format("tp {}  cp {}  dp {}   etp {}  ep {}  edp {}", layout.share * layout.kv,
                  layout.cp, layout.dp, layout.etp, layout.ep, layout.edp);
  return layout.pp > 1 ? text + fmt::format("   pp {}", layout.pp) : text;
}

}  // namespace pf
