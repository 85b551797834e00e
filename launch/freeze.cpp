#include "launch/freeze.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "launch/config_keys.h"
#include "launch/text.h"

namespace pf {

std::vector<std::string> split_patterns(const std::string& patterns) {
  std::vector<std::string> out(1);
  for (const char c : patterns) {
    if (c == ',')
      out.emplace_back();
    else if (c != ' ')
      out.back() += c;
  }
  return out;
}

std::vector<Parameter*> fitting(const std::string& pattern,
                                const std::vector<Parameter*>& parameters) {
  std::vector<Parameter*> out;
  std::ranges::copy_if(parameters, std::back_inserter(out),
                       [&](const Parameter* w) { return fits(pattern, w->name()); });
  return out;
}

const std::string& nearest_name(const std::string& pattern,
                                const std::vector<Parameter*>& parameters) {
  return (*std::ranges::min_element(
              parameters, {},
              [&](const Parameter* w) { return edit_distance(pattern, w->name()); }))
      ->name();
}

// The first place that fits what stands between two stars leaves most to the rest.
bool fits(std::string_view pattern, std::string_view text) {
  std::size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == text;
  if (!text.starts_with(pattern.substr(0, star))) return false;
  while (true) {
    text.remove_prefix(star);
    pattern.remove_prefix(star + 1);
    star = pattern.find('*');
    if (star == std::string_view::npos) return text.ends_with(pattern);
    const std::size_t begin = text.find(pattern.substr(0, star));
    if (begin == std::string_view::npos) return false;
    text.remove_prefix(begin);
  }
}

void freeze(const std::string& patterns, const std::function<void(const Visitor&)>& visit,
            const Complain& complain) {
  if (patterns.empty()) return;
  std::vector<Parameter*> parameters;
  visit({.parameter = [&](Parameter& w) { parameters.push_back(&w); }});
  for (const std::string& pattern : split_patterns(patterns)) {
    const std::vector<Parameter*> found = fitting(pattern, parameters);
    if (found.empty() && complain)
      complain("train.freeze", "found '" + printable(pattern) +
                                   "', which no parameter's name fits; nearest: " +
                                   nearest_name(pattern, parameters));
    for (Parameter* w : found) w->freeze();
  }
  if (complain &&
      std::ranges::none_of(parameters, [](const Parameter* w) { return w->is_trainable(); }))
    complain("train.freeze", "found '" + printable(patterns) + "', which freezes all " +
                                 std::to_string(parameters.size()) +
                                 " parameters; wanted some to train");
}

}  // namespace pf
