#include "parallel/mesh.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace pf {
namespace {

bool has(const Axes& set, Axis axis) {
  return std::ranges::find(set, axis) != set.end();
}

// The axis along which a group of `axis` lies.
Axis of_view(Axis axis) {
  return axis == Axis::ends ? Axis::pp : axis;
}

// The view that all axes of the set are of; pp alone is of both, and so are its ends.
View view_of(const Axes& set) {
  for (const View view : {View::dense, View::expert})
    if (std::ranges::all_of(set, [&](Axis a) { return has(axes_of(view), of_view(a)); }))
      return view;
  throw Error("mesh: " + name(set) + " are not axes of one view");
}

// Where `rank` stands along each axis of `view`.
std::array<int, 5> coordinates(const Layout& layout, View view, int rank) {
  std::array<int, 5> out{};
  const Axes& all = axes_of(view);
  for (std::size_t i = 0; i < all.size(); ++i) {
    out[i] = rank % layout.size(all[i]);
    rank /= layout.size(all[i]);
  }
  return out;
}

}  // namespace

int Layout::size(Axis axis) const {
  switch (axis) {
    case Axis::share:
      return share;
    case Axis::kv:
      return kv;
    case Axis::cp:
      return cp;
    case Axis::dp:
      return dp;
    case Axis::etp:
      return etp;
    case Axis::ep:
      return ep;
    case Axis::edp:
      return edp;
    case Axis::pp:
      return pp;
    case Axis::ends:
      return std::min(pp, 2);
  }
  return 1;
}

Layout Layout::make(int ranks, int tp, int cp, int ep, int etp, int pp, int kv_heads) {
  require(std::min({ranks, tp, cp, ep, etp, pp, kv_heads}) > 0, "layout: ", ranks, " ranks, tp ",
          tp, ", cp ", cp, ", ep ", ep, ", etp ", etp, ", pp ", pp, ", KV heads ", kv_heads,
          "; all must be 1 or more");
  const std::int64_t dense = std::int64_t{tp} * cp * pp, expert = std::int64_t{etp} * ep * pp;
  require(ranks % dense == 0, "layout: tp x cp x pp = ", tp, " x ", cp, " x ", pp, " = ", dense,
          " must divide the ", ranks, " ranks");
  require(ranks % expert == 0, "layout: etp x ep x pp = ", etp, " x ", ep, " x ", pp, " = ", expert,
          " must divide the ", ranks, " ranks");
  const int kv = std::min(tp, kv_heads);
  require(tp % kv == 0 && kv_heads % kv == 0, "layout: tp = ", tp, " and ", kv_heads,
          " KV heads: one must divide the other");
  return {tp / kv, kv, cp, int(ranks / dense), etp, ep, int(ranks / expert), pp};
}

std::string text(const Layout& layout) {
  std::string out = "tp " + std::to_string(layout.share * layout.kv);
  if (layout.share > 1) out += " (share " + std::to_string(layout.share) + ")";
  for (const Axis a : {Axis::cp, Axis::dp, Axis::etp, Axis::ep, Axis::edp, Axis::pp})
    out += std::string(", ") + name(a) + " " + std::to_string(layout.size(a));
  return out;
}

Mesh::Mesh(Communicator& communicator, Device& device, const Layout& layout, std::vector<int> ranks)
    : communicator_(&communicator), device_(&device), layout_(layout), ranks_(std::move(ranks)) {
  require(layout_.ranks() == size(), "mesh: the layout has ", layout_.ranks(), " ranks, the list ",
          size());
  require(layout_.etp * layout_.ep * layout_.edp * layout_.pp == size(),
          "mesh: etp x ep x edp x pp = ", layout_.etp, " x ", layout_.ep, " x ", layout_.edp, " x ",
          layout_.pp, " is not ", size(), " ranks");
  const auto self = std::ranges::find(ranks_, communicator.rank());
  require(self != ranks_.end(), "mesh: rank ", communicator.rank(), " is not in its list of ranks");
  rank_ = int(self - ranks_.begin());
}

Mesh::Mesh(Communicator& communicator, Device& device)
    : Mesh(communicator, device, Layout{}, {communicator.rank()}) {}

bool Mesh::tp_is_etp() const {
  return layout_.share * layout_.kv == layout_.etp;
}

int Mesh::size(const Axes& set) const {
  int product = 1;
  for (const Axis a : set) product *= layout_.size(a);
  return product;
}

int Mesh::coordinate(const Axes& set) const {
  const View view = view_of(set);
  const Axes& all = axes_of(view);
  const auto place = coordinates(layout_, view, rank_);
  int index = 0, stride = 1;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool is_of_ends = all[i] == Axis::pp && has(set, Axis::ends);
    if (!has(set, all[i]) && !is_of_ends) continue;
    index += (is_of_ends ? std::min(place[i], 1) : place[i]) * stride;
    stride *= layout_.size(all[i]);
  }
  return index;
}

const std::vector<int>& Mesh::group(const Axes& set) const {
  const auto [found, is_new] = groups_.try_emplace(set);
  if (!is_new) return found->second;
  const View view = view_of(set);
  const Axes& all = axes_of(view);
  const auto here = coordinates(layout_, view, rank_);
  // In both, the first axis is the fastest: ranks of a group ascend with their coordinate.
  for (int r = 0; r < size(); ++r) {
    const auto there = coordinates(layout_, view, r);
    bool is_member = true;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool is_end = all[i] == Axis::pp && has(set, Axis::ends) &&
                          (there[i] == 0 || there[i] == layout_.pp - 1);
      is_member = is_member && (there[i] == here[i] || has(set, all[i]) || is_end);
    }
    if (is_member) found->second.push_back(ranks_[std::size_t(r)]);
  }
  return found->second;
}

Block Mesh::place(const std::string& name, const Shape& whole, const Label& label,
                  bool nearly_even) const {
  Block block;
  block.extents = whole;
  std::array<bool, Shape::max_dims> is_cut{};
  for (const Spread cut : {Spread::rows, Spread::columns, Spread::experts}) {
    Axes set;
    for (const Axis a : axes_of(label.view))
      if (label[a] == cut) set.push_back(a);
    if (set.empty()) continue;
    require(whole.dims() > 0, name, ": a scalar can't be cut by ", pf::name(cut), " on ",
            pf::name(set));
    const int last = whole.dims() - 1;
    const int dim = cut == Spread::columns ? last : cut == Spread::rows ? std::max(last - 1, 0) : 0;
    const int parts = size(set);
    require(!is_cut[std::size_t(dim)], name, ": dim ", dim, " of ", whole,
            " is cut twice: ", text(label));
    require(nearly_even ? whole[dim] >= parts : whole[dim] % parts == 0, name, ": dim ", dim,
            " of ", whole, ", ", whole[dim],
            nearly_even ? ", is less than " : ", is not a multiple of ", pf::name(set), " = ",
            parts);
    const std::int64_t self = coordinate(set), begin = whole[dim] * self / parts;
    is_cut[std::size_t(dim)] = true;
    block.begin[std::size_t(dim)] = begin;
    block.extents.set(dim, whole[dim] * (self + 1) / parts - begin);
  }
  return block;
}

Tensor Mesh::index(const Axes& set, Spread cut) const {
  require(is_varying(cut), "index: ", name(cut), " on ", name(set), "; a rank's number varies");
  Label label = constant(view_of(set) == View::dense ? Label{} : Label{.view = View::expert});
  return Tensor::scalar(coordinate(set), DType::i64, *device_, label.with(set, cut));
}

}  // namespace pf
