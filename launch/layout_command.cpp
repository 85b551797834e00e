#include "launch/layout_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "launch/run_mesh.h"

namespace pf {
namespace {

constexpr std::size_t widest_line = 100;

struct Line {
  const char* name;
  const Axes& set;
  View view;
};

std::vector<Line> lines_of(View view) {
  if (view == View::expert)
    return {{"etp", axes::etp, view}, {"ep", axes::ep, view}, {"edp", axes::edp, view}};
  return {{"tp", axes::tp, view},
          {"cp", axes::cp, view},
          {"dp", axes::dp, view},
          {"pp", axes::pp, view}};
}

// How many coordinates a set has, and how far apart in ranks two neighbours are.
struct Stride {
  int count = 1, ranks = 1;

  int coordinate(int rank) const { return rank / ranks % count; }
};

Stride stride_of(const Layout& layout, const Axes& set, View view) {
  Stride stride;
  bool is_before = true;
  for (const Axis axis : axes_of(view)) {
    const bool is_in = std::ranges::find(set, axis) != set.end();
    is_before = is_before && !is_in;
    if (is_in) stride.count *= layout.size(axis);
    if (is_before) stride.ranks *= layout.size(axis);
  }
  return stride;
}

int node_of(const config::Config& config, int rank) {
  const std::int64_t each = config.cluster().ranks_per_node();
  return each == 0 ? 0 : rank / int(each);
}

// "{0 1 2}", or for long ones "{0 8 .. 56}".
std::string text_of(const std::vector<int>& group) {
  if (group.size() > 8) return fmt::format("{{{} {} .. {}}}", group[0], group[1], group.back());
  return fmt::format("{{{}}}", fmt::join(group, " "));
}

std::string groups_text(const config::Config& config, const Layout& layout, const Line& line) {
  const auto groups = groups_of(layout, line.set, line.view);
  const std::string margin(10, ' ');
  std::string text, row;
  std::size_t leaving = 0;
  for (const std::vector<int>& group : groups) {
    const bool leaves = node_of(config, group.front()) != node_of(config, group.back());
    leaving += leaves ? 1 : 0;
    const std::string shown = text_of(group) + (leaves ? "*" : "");
    if (margin.size() + row.size() + shown.size() + 1 > widest_line) {
      text += margin + row + '\n';
      row.clear();
    }
    row += (row.empty() ? "" : " ") + shown;
  }
  const std::string head =
      groups[0].size() == 1
          ? fmt::format("  {:<4}{:>4}", line.name, 1)
          : fmt::format("  {:<4}{:>4}  {} groups of {}, {} leave a node\n{}{}{}", line.name,
                        groups[0].size(), groups.size(), groups[0].size(),
                        leaving == 0 ? "none" : fmt::format("{}", leaving), text, margin, row);
  return head + '\n';
}

std::string rank_text(const config::Config& config, const Layout& layout, int rank) {
  std::string text = fmt::format("{:>7}{:>6} ", rank, node_of(config, rank));
  const auto add = [&](const Line& line) {
    text += fmt::format("{:>5}", stride_of(layout, line.set, line.view).coordinate(rank));
  };
  std::ranges::for_each(lines_of(View::dense), add);
  text += "  ";
  std::ranges::for_each(lines_of(View::expert), add);
  if (!config.model().has_moe()) return text + '\n';
  const std::int64_t mine = config.model().moe().experts() / layout.ep;
  const std::int64_t first = stride_of(layout, axes::ep, View::expert).coordinate(rank) * mine;
  return text + (mine == 1 ? fmt::format("  {}\n", first)
                           : fmt::format("  {}-{}\n", first, first + mine - 1));
}

}  // namespace

std::vector<std::vector<int>> groups_of(const Layout& layout, const Axes& set, View view) {
  const Stride stride = stride_of(layout, set, view);
  std::vector<std::vector<int>> groups;
  for (int first = 0; first < layout.ranks(); ++first) {
    if (stride.coordinate(first) != 0) continue;
    groups.emplace_back();
    for (int i = 0; i < stride.count; ++i) groups.back().push_back(first + i * stride.ranks);
  }
  return groups;
}

std::string layout_text(const config::Config& config) {
  const Layout layout = layout_of(config);
  const int ranks = layout.ranks();
  std::string text = fmt::format(
      "{} rank{}, {} node{}\n"
      "  dense view   tp {} x cp {} x dp {} x pp {}    attention, dense MLPs, embedding, head\n"
      "  expert view  etp {} x ep {} x edp {} x pp {}   experts\n",
      ranks, ranks == 1 ? "" : "s", node_of(config, ranks - 1) + 1,
      node_of(config, ranks - 1) == 0 ? "" : "s", layout.share * layout.kv, layout.cp, layout.dp,
      layout.pp, layout.etp, layout.ep, layout.edp, layout.pp);
  text += "\ngroups (* leaves a node)\n";
  for (const View view : {View::dense, View::expert})
    for (const Line& line : lines_of(view)) text += groups_text(config, layout, line);
  text += "\n   rank  node    tp   cp   dp   pp    etp   ep  edp";
  text += config.model().has_moe() ? "  experts\n" : "\n";
  for (int rank = 0; rank < ranks; ++rank) text += rank_text(config, layout, rank);
  return text;
}

}  // namespace pf
