#include "launch/check_traffic.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace pf {
namespace {

// The axes of a set that was written by name().
Axes axes_named(const std::string& text) {
  Axes set;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(" x ", begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (word == "tp") set = set * axes::tp;
    for (int a = 0; a <= int(Axis::ends); ++a)
      if (word == name(Axis(a))) set.push_back(Axis(a));
    begin = end + 3;
  }
  return set;
}

}  // namespace

int groups_that_leave(const Layout& layout, const std::string& set, std::int64_t ranks_per_node) {
  const Axes axes = axes_named(set);
  const auto has = [&](Axis axis) {
    return std::ranges::find(axes, axis) != axes.end() ||
           (axis == Axis::pp && std::ranges::find(axes, Axis::ends) != axes.end());
  };
  const bool is_expert = has(Axis::etp) || has(Axis::ep) || has(Axis::edp);
  if (ranks_per_node == 0) return 0;
  // Coordinates of the first rank of a group are 0 on `set`; of the last one the largest.
  int leaving = 0;
  for (int first = 0; first < layout.ranks(); ++first) {
    int stride = 1, last = first;
    bool is_first = true;
    for (const Axis axis : axes_of(is_expert ? View::expert : View::dense)) {
      const int size = layout.size(axis);
      if (has(axis)) {
        is_first = is_first && first / stride % size == 0;
        last += (size - 1) * stride;
      }
      stride *= size;
    }
    leaving += is_first && first / ranks_per_node != last / ranks_per_node;
  }
  return leaving;
}

// Of one kind and set of axes, what the stage that sends the most of it does.
std::vector<Traffic> largest_traffic(const std::vector<RankNeeds>& stages) {
  std::vector<Traffic> all;
  for (const RankNeeds& stage : stages) {
    for (const Traffic& traffic : stage.traffic) {
      const auto found = std::ranges::find_if(all, [&](const Traffic& other) {
        return other.kind == traffic.kind && other.axes == traffic.axes;
      });
      if (found == all.end())
        all.push_back(traffic);
      else if (std::pair(traffic.bytes, traffic.calls) > std::pair(found->bytes, found->calls))
        *found = traffic;
    }
  }
  std::ranges::stable_sort(all, std::ranges::greater(), &Traffic::bytes);
  return all;
}

}  // namespace pf
