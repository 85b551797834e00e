#include "launch/lora.h"

#include <algorithm>
#include <sstream>
#include <vector>

namespace pf {
namespace {

void add_adapters(const config::Lora& config, const std::function<void(const Visitor&)>& visit,
                  const Complain& complain) {
  std::vector<Parameter*> all, matrices, chosen;
  visit({.parameter = [&](Parameter& w) { all.push_back(&w); },
         .pack =
             [&](Pack& pack) {
               for (Parameter* w : pack.parts())
                 if (w->role() != Role::embedding) matrices.push_back(w);
             }});
  for (const std::string& pattern : split_patterns(config.on())) {
    const std::vector<Parameter*> found = fitting(pattern, matrices);
    if (found.empty() && complain)
      complain("train.lora.on",
               "found '" + pattern +
                   "', which no matrix's name fits (norms, biases and embeddings are none); "
                   "nearest: " +
                   nearest_name(pattern, matrices));
    for (Parameter* w : found) {
      const std::int64_t most = std::min(w->whole()[-1], w->whole()[-2]);
      std::ostringstream text;
      text << "found " << config.rank() << ", wanted at most " << most << ": " << w->name()
           << " is " << w->whole() << "; a lower rank, or another train.lora.on";
      if (config.rank() > most && complain) complain("train.lora.rank", text.str());
      if (std::ranges::find(chosen, w) == chosen.end()) chosen.push_back(w);
    }
  }
  for (Parameter* w : all) w->freeze();
  for (Parameter* w : chosen) w->adapt(config.rank(), config.alpha() / double(config.rank()));
}

}  // namespace

void choose_trained(const config::Train& config, const std::function<void(const Visitor&)>& visit,
                    const Complain& complain) {
  if (config.has_lora())
    add_adapters(config.lora(), visit, complain);
  else
    freeze(config.freeze(), visit, complain);
}

void choose_trained(const config::Train& config, const std::function<void(const Visitor&)>& visit) {
  choose_trained(config, visit, {});
}

}  // namespace pf
