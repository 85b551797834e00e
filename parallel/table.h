// The table: every way a tensor changes how ranks hold it, each with its backward.
//
//   forward               from -> to                              backward
//   replicate             invariant -> replicated                 all_reduce
//   all_reduce            partial -> invariant                    nothing moves
//   all_gather            varying -> replicated                   reduce_scatter
//   reduce_scatter        partial -> varying                      all_gather
//   all_gather_invariant  varying -> invariant                    slice
//   slice                 invariant -> varying                    all_gather_invariant
//   take                  replicated -> varying                   zero-padded, partial
//   all_to_all            rows <-> experts, rows <-> columns      all_to_all, counts swapped
//   shift                 varying -> varying                      shift(-by)
//   total                 varying -> partial                      nothing moves
//   once                  invariant -> partial, on one rank       nothing moves
//   all_max               a constant -> replicated                none
//   cross                 one view -> the other                   cross back
//
// Each takes a set of axes as one group. On a group of size one nothing moves, but spreads are
// checked and changed. Rows mean the first dim. Sums are made in rank order: the same bits every
// time.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/tape.h"
#include "parallel/collectives.h"
#include "parallel/mesh.h"

namespace pf {

Tensor replicate(const Tensor& x, const Mesh& mesh, const Axes& set);
Tensor all_reduce(const Tensor& x, const Mesh& mesh, const Axes& set);

// rows[i]: how many the i-th rank of the group holds; empty: all hold as many as this one.
using Rows = std::vector<std::int64_t>;
Tensor all_gather(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows = {});
Tensor all_gather_invariant(const Tensor& x, const Mesh& mesh, const Axes& set,
                            const Rows& rows = {});
// Empty: equal parts; throws Error if they do not divide.
Tensor reduce_scatter(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows = {});
Tensor slice(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows = {});

// This rank's run of columns (cut = columns) or rows (cut = rows) of what is replicated; `index` is
// mesh.index(set, cut).
Tensor take(const Tensor& x, const Mesh& mesh, const Axes& set, const Tensor& index, Spread cut);

// Sends counts[i] consecutive rows to the i-th rank of the group and receives received[i] from it.
struct Exchange {
  Rows sent, received;
};
Tensor all_to_all(const Tensor& x, const Mesh& mesh, const Axes& set, const Exchange& counts,
                  Spread from, Spread to);

// What is on its way between two halves of a call: others may work, on this tape too, and in
// backward the gradient travels while their work is undone. arrive() once, and always.
class Moving {
 public:
  using Start = std::function<Started(const Tensor&)>;
  // x -> what `start` starts; of its gradient, what `back` starts.
  Moving(const Tensor& x, const Start& start, Start back);
  Tensor arrive();

 private:
  struct Halves;
  std::shared_ptr<Halves> halves_;  // with what the tape keeps of both, which must be copied
  Tensor token_;                    // by which the tape knows the first half
};
Moving start_all_to_all(const Tensor& x, const Mesh& mesh, const Axes& set, const Exchange& counts,
                        Spread from, Spread to);
Moving start_all_gather(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows = {});

// Ulysses (Jacobs et al. 2023): rows of all ranks, this rank's share of the columns; and back.
Tensor columns_for_rows(const Tensor& x, const Mesh& mesh, const Axes& set);
Tensor rows_for_columns(const Tensor& x, const Mesh& mesh, const Axes& set);

// From the rank `by` places before: rows -> others, or back (others -> rows).
Tensor shift(const Tensor& x, const Mesh& mesh, const Axes& set, int by);
Tensor total(
    const Tensor& x);  // a scalar that varies on some axes: the sum over them is still to do
Tensor once(const Tensor& x, const Mesh& mesh, const Axes& set);
Tensor all_max(const Tensor& x, const Mesh& mesh, const Axes& set);
Tensor cross(const Tensor& x, const Mesh& mesh);

}  // namespace pf
