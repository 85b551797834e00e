// The mesh: the ranks of a run along named axes, seen two ways.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "core/parameter.h"
#include "core/spread.h"
#include "parallel/communicator.h"

namespace pf {

// Sizes of the axes. Dense view (share, kv, cp, dp, pp) and expert view (etp, ep, edp, pp) of the
// same ranks, first axis fastest; pp is outermost in both, so that stages agree for every folding.
struct Layout {
  int share = 1, kv = 1, cp = 1, dp = 1, etp = 1, ep = 1, edp = 1, pp = 1;

  int size(Axis axis) const;
  int ranks() const { return share * kv * cp * dp * pp; }
  // From the sizes users give: dp and edp follow; tp = share x kv with kv = min(tp, kv_heads).
  // Throws Error with the rule and its numbers when they do not divide.
  static Layout make(int ranks, int tp, int cp, int ep, int etp, int pp, int kv_heads);
};

// "tp 4 (share 2), cp 1, dp 2, etp 1, ep 4, edp 2, pp 1"
std::string text(const Layout& layout);

// One rank's view of the mesh. Made from a list of ranks of the communicator's world, in mesh
// order: a trainer and its rollout workers are two meshes.
class Mesh {
 public:
  Mesh(Communicator& communicator, Device& device, const Layout& layout, std::vector<int> ranks);
  // One rank of everything.
  Mesh(Communicator& communicator, Device& device);
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  const Layout& layout() const { return layout_; }
  Communicator& communicator() const { return *communicator_; }
  Device& device() const { return *device_; }
  int rank() const { return rank_; }  // in the mesh
  int size() const { return int(ranks_.size()); }
  bool tp_is_etp() const;  // the same groups

  int size(const Axes& set) const;
  // This rank's place in the flattened set, first axis of the view fastest. Of a set with `ends`
  // only ranks of the first and the last stage ask.
  int coordinate(const Axes& set) const;
  // The world ranks of this rank's group along `set`, in order of their coordinate.
  const std::vector<int>& group(const Axes& set) const;

  // What this rank holds of a parameter: rows cut dim -2 (dim 0 of one dim), columns dim -1,
  // experts dim 0. Throws Error naming `name`, the dim, the axis and the sizes when they do not
  // divide; `nearly_even` parts may differ by one, and none is empty.
  Block place(const std::string& name, const Shape& whole, const Label& label,
              bool nearly_even = false) const;
  // The number of this rank along `set`, as a varying constant i64: the only way to ask in model
  // code.
  Tensor index(const Axes& set, Spread cut) const;

 private:
  Communicator* communicator_;
  Device* device_;
  Layout layout_;
  std::vector<int> ranks_;
  int rank_ = 0;
  mutable std::map<Axes, std::vector<int>> groups_;
};

}  // namespace pf
