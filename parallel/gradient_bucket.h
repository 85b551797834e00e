// A layer's gradients that are summed over the same ranks, side by side in one flat tensor.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/gradients.h"

namespace pf {

// A sum that a group makes by slices: rank i of it makes [bounds[i], bounds[i + 1]) of the bucket.
struct Slices {
  std::vector<int> group;  // world ranks
  std::size_t self = 0;
  std::vector<std::int64_t> bounds;

  std::int64_t begin() const { return bounds[self]; }
  std::int64_t end() const { return bounds[self + 1]; }
};

// Whether a gradient is summed over two stages that hold its parameter.
bool is_of_two_stages(const Axes& set);

// Parameters side by side, and what this rank keeps of them.
struct GradientBucket {
  // Of parameters like `first`.
  GradientBucket(const Mesh& mesh, std::size_t squares_of_it, const Parameter& first);

  // Once all parameters are known: each gets its place.
  void allocate(const Mesh& mesh, const Sharing& sharing);
  void divide(const Sharing& sharing);
  // A place near `target` that cuts nothing that must not be cut.
  std::int64_t bound(std::int64_t target, const Sharing& sharing) const;
  bool is_shared() const { return owners.group.size() > 1; }
  bool divides_gradients() const { return is_shared() && divided != Divided::states; }
  bool divides_weights() const { return is_shared() && divided == Divided::weights; }

  // Parameter i of a tensor like the bucket.
  Tensor place(const Tensor& of, std::size_t i) const;
  // What this rank changes of parameter i; may be empty.
  Part part(std::size_t i) const;
  void place_gradients(Device& device);
  void drop_gradients();
  // Of parameters that have values.
  void keep_values(Device& device);
  void drop_values();

  std::unique_ptr<Pending> gather(const Mesh& mesh, const Call& call, const Slices& slices,
                                  const Tensor& of) const;
  void gather_values(const Mesh& mesh);
  Call call(const char* kind, const char* what = "gradients of ") const;

  std::vector<Parameter*> parameters;
  std::vector<std::int64_t> begins;  // of the parameters
  std::vector<Pack*> packs;          // that have one of them
  std::int64_t size = 0;
  Axes set;
  std::size_t squares;
  DType type;
  Divided divided = Divided::states;
  Slices owners;                    // whose slices stay cut
  Slices groups;                    // of owners, each of which makes a part of a slice's sum
  std::vector<const Slices*> sums;  // of more than one rank: over owners, then over their groups
  Tensor flat;        // [size], gradients; empty between start() and weight work where divided
  Tensor own;         // the owner's slice of their sums
  bool adds = false;  // there is something in `own` already
  Tensor values;      // [size], if they are shared; empty unless held where divided
  Tensor kept;        // the owner's slice of divided values
  int holds = 0;      // uses under way or expected
  std::unique_ptr<Pending> values_pending;  // last: withdrawn before the memory goes
};

}  // namespace pf
