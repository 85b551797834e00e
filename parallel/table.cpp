#include "parallel/table.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/backend.h"
#include "core/error.h"

namespace pf {
namespace {

using enum Spread;

// The same data with another label: nothing moves.
Tensor relabelled(const Tensor& x, const Label& label) {
  return x.detached().labelled(label);
}

// Checks rows given for the ranks of the group, or makes equal ones of what this rank has.
Rows checked(const char* op, const Rows& rows, const Tensor& x, const Move& move) {
  require(x.shape().dims() > 0, op, ": a scalar has no rows: ", x.text());
  const auto ranks = std::size_t(move.ranks());
  if (rows.empty()) return Rows(ranks, x.extent(0));
  require(rows.size() == ranks, op, ": rows for ", rows.size(), " ranks; ", name(move.set), " has ",
          ranks);
  require(std::ranges::all_of(rows, [](std::int64_t count) { return count >= 0; }), op,
          ": a negative number of rows");
  return rows;
}

// Of entries whose ranks bring rows together: rows[self] are x's.
Rows rows_to_join(const char* op, const Rows& rows, const Tensor& x, const Move& move) {
  Rows out = checked(op, rows, x, move);
  const std::int64_t own = out[std::size_t(move.self())];
  require(own == x.extent(0), op, ": this rank holds ", x.extent(0), " rows of ", x.text(),
          ", but ", own, " are announced");
  return out;
}

// Of entries that cut rows: equal parts, or those given.
Rows rows_to_part(const char* op, const Rows& rows, const Tensor& x, const Move& move) {
  Rows out = checked(op, rows, x, move);
  const std::int64_t ranks = move.ranks();
  if (rows.empty()) {
    require(x.extent(0) % ranks == 0, op, ": ", x.extent(0), " rows of ", x.text(), " over ",
            name(move.set), " = ", ranks, "; give each rank's rows");
    return Rows(std::size_t(ranks), x.extent(0) / ranks);
  }
  const std::int64_t sum = std::accumulate(out.begin(), out.end(), std::int64_t{0});
  require(sum == x.extent(0), op, ": ", x.extent(0), " rows of ", x.text(), ", but ", sum,
          " are given out");
  return out;
}

// This rank's run of rows, a view.
Tensor own_rows(const Tensor& x, const Rows& rows, const Move& move) {
  const auto self = rows.begin() + move.self();
  const std::int64_t begin = std::accumulate(rows.begin(), self, std::int64_t{0});
  return relabelled(x.rows(begin, begin + *self), move.label);
}

Started started_gather(const char* op, const Tensor& x, const Mesh& mesh, const Axes& set,
                       const Rows& rows, Spread to) {
  const Move way{op, mesh, set, move(op, x.label(), set, Spread::rows, to), !rows.empty()};
  const Rows counts = rows_to_join(op, rows, x, way);
  if (way.ranks() == 1) return Started(relabelled(x, way.label));
  return start_gather_rows(x, counts, way);
}

Started started_scatter(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows) {
  const Label label = move("reduce_scatter", x.label(), set, partial, Spread::rows);
  const Move way{"reduce_scatter", mesh, set, label};
  const Rows counts = rows_to_part("reduce_scatter", rows, x, way);
  if (way.ranks() == 1) return Started(relabelled(x, label));
  return start_rows_of_sum(x, counts, way);
}

Started started_exchange(const Tensor& x, const Mesh& mesh, const Axes& set, const Exchange& counts,
                         Spread from, Spread to) {
  require(is_varying(from) && is_varying(to), "all_to_all: from ", name(from), " to ", name(to),
          "; both must vary");
  const Move way{"all_to_all", mesh, set, move("all_to_all", x.label(), set, from, to), true};
  rows_to_part("all_to_all", counts.sent, x, way);
  const auto ranks = std::size_t(way.ranks());
  require(counts.sent.size() == ranks && counts.received.size() == ranks, "all_to_all: counts for ",
          counts.sent.size(), " and ", counts.received.size(), " ranks; ", name(set), " has ",
          ranks);
  const auto self = std::size_t(way.self());
  require(counts.sent[self] == counts.received[self], "all_to_all: this rank sends itself ",
          counts.sent[self], " rows and receives ", counts.received[self]);
  if (ranks == 1) return Started(relabelled(x, way.label));
  return start_swap_rows(x, counts.sent, counts.received, way);
}

Tensor join(const char* op, const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows,
            Spread to) {
  const Tensor y = started_gather(op, x, mesh, set, rows, to).wait();
  return Tape::record(y, {x}, false, [&mesh, set, rows, to](const Tensor& dy) {
    return to == replicated ? reduce_scatter(dy, mesh, set, rows) : slice(dy, mesh, set, rows);
  });
}

}  // namespace

// The gradient of the token is never asked for: it stands for what `backward` brings.
struct Moving::Halves {
  Started forward, backward;
  Start back;
};

Moving::Moving(const Tensor& x, const Start& start, Start back)
    : halves_(std::make_shared<Halves>()),
      token_(Tensor::empty({0}, x.dtype(), x.device(), x.label())) {
  halves_->forward = start(x);
  halves_->back = std::move(back);
  token_ = Tape::record(token_, {x}, false, [halves = halves_](const Tensor&) {
    require(!halves->backward.is_empty(), "backward: what was started never arrived()");
    return halves->backward.wait();
  });
}

Tensor Moving::arrive() {
  require(!halves_->forward.is_empty(), "arrive: twice");
  return Tape::record(halves_->forward.wait(), {token_}, false,
                      [halves = halves_](const Tensor& dy) {
                        halves->backward = halves->back(dy);
                        return Tensor();
                      });
}

Tensor replicate(const Tensor& x, const Mesh& mesh, const Axes& set) {
  const Label label = move("replicate", x.label(), set, invariant, replicated);
  return Tape::record(relabelled(x, label), {x}, false,
                      [&mesh, set](const Tensor& dy) { return all_reduce(dy, mesh, set); });
}

Tensor all_reduce(const Tensor& x, const Mesh& mesh, const Axes& set) {
  const Move way{"all_reduce", mesh, set, move("all_reduce", x.label(), set, partial, invariant)};
  const Tensor y = way.ranks() == 1 ? relabelled(x, way.label) : sum_of_all(x, way);
  return Tape::record(y, {x}, false, [label = gradient_of(x.label())](const Tensor& dy) {
    return relabelled(dy, label);
  });
}

Tensor all_gather(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows) {
  return join("all_gather", x, mesh, set, rows, replicated);
}

Tensor all_gather_invariant(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows) {
  return join("all_gather_invariant", x, mesh, set, rows, invariant);
}

Moving start_all_gather(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows) {
  return {x,
          [&](const Tensor& of) {
            return started_gather("all_gather", of, mesh, set, rows, replicated);
          },
          [&mesh, set, rows](const Tensor& dy) { return started_scatter(dy, mesh, set, rows); }};
}

Tensor reduce_scatter(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows) {
  const Tensor y = started_scatter(x, mesh, set, rows).wait();
  return Tape::record(y, {x}, false, [&mesh, set, rows](const Tensor& dy) {
    return all_gather(dy, mesh, set, rows);
  });
}

Tensor slice(const Tensor& x, const Mesh& mesh, const Axes& set, const Rows& rows) {
  const Move way{"slice", mesh, set, move("slice", x.label(), set, invariant, Spread::rows)};
  const Rows counts = rows_to_part("slice", rows, x, way);
  return Tape::record(own_rows(x, counts, way), {x}, false, [&mesh, set, counts](const Tensor& dy) {
    return all_gather_invariant(dy, mesh, set, counts);
  });
}

Tensor take(const Tensor& x, const Mesh& mesh, const Axes& set, const Tensor& index, Spread cut) {
  require(cut == Spread::rows || cut == columns, "take: cuts rows or columns, not ", name(cut));
  const Label label = move("take", x.label(), set, replicated, cut);
  for (const Axis a : set)
    require(index.label().constant && index.label()[a] == cut, "take: the index is ",
            text(index.label()), "; wanted ", name(cut), " on ", name(a), ": mesh.index()");
  const int dim = cut == columns ? -1 : 0;
  const int ranks = mesh.size(set);
  require(x.shape().dims() > (cut == columns ? 1 : 0) && x.extent(dim) % ranks == 0,
          "take: ", name(cut), " of ", x.text(), " over ", name(set), " = ", ranks);
  const std::int64_t width = x.extent(dim) / ranks, begin = mesh.coordinate(set) * width;
  const auto part = [cut, begin, width](const Tensor& whole) {
    return cut == columns ? whole.columns(begin, begin + width) : whole.rows(begin, begin + width);
  };
  return Tape::record(relabelled(part(x), label), {x}, false,
                      [part, shape = x.shape(), wanted = gradient_of(x.label())](const Tensor& dy) {
                        Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device(), wanted);
                        backend(dx).copy(part(dx), dy);
                        return dx;
                      });
}

Tensor all_to_all(const Tensor& x, const Mesh& mesh, const Axes& set, const Exchange& counts,
                  Spread from, Spread to) {
  const Tensor y = started_exchange(x, mesh, set, counts, from, to).wait();
  const Exchange back{counts.received, counts.sent};
  return Tape::record(y, {x}, false, [&mesh, set, back, from, to](const Tensor& dy) {
    return all_to_all(dy, mesh, set, back, to, from);
  });
}

Moving start_all_to_all(const Tensor& x, const Mesh& mesh, const Axes& set, const Exchange& counts,
                        Spread from, Spread to) {
  const Exchange back{counts.received, counts.sent};
  return {x, [&](const Tensor& of) { return started_exchange(of, mesh, set, counts, from, to); },
          [&mesh, set, back, from, to](const Tensor& dy) {
            return started_exchange(dy, mesh, set, back, to, from);
          }};
}

Tensor columns_for_rows(const Tensor& x, const Mesh& mesh, const Axes& set) {
  const Label label = move("columns_for_rows", x.label(), set, Spread::rows, columns);
  const Move way{"columns_for_rows", mesh, set, label};
  require(x.shape().dims() == 2 && x.extent(1) % way.ranks() == 0, "columns_for_rows: columns of ",
          x.text(), " over ", name(set), " = ", way.ranks());
  const Tensor y = way.ranks() == 1 ? relabelled(x, label) : swap_rows_for_columns(x, way);
  return Tape::record(y, {x}, false,
                      [&mesh, set](const Tensor& dy) { return rows_for_columns(dy, mesh, set); });
}

Tensor rows_for_columns(const Tensor& x, const Mesh& mesh, const Axes& set) {
  const Label label = move("rows_for_columns", x.label(), set, columns, Spread::rows);
  const Move way{"rows_for_columns", mesh, set, label};
  require(x.shape().dims() == 2 && x.extent(0) % way.ranks() == 0, "rows_for_columns: rows of ",
          x.text(), " over ", name(set), " = ", way.ranks());
  const Tensor y = way.ranks() == 1 ? relabelled(x, label) : swap_columns_for_rows(x, way);
  return Tape::record(y, {x}, false,
                      [&mesh, set](const Tensor& dy) { return columns_for_rows(dy, mesh, set); });
}

Tensor shift(const Tensor& x, const Mesh& mesh, const Axes& set, int by) {
  const bool is_back = !set.empty() && x.label()[set[0]] == others;
  const Label label = is_back ? move("shift", x.label(), set, others, Spread::rows)
                              : move("shift", x.label(), set, Spread::rows, others);
  const Move way{"shift", mesh, set, label};
  const Tensor y = by % way.ranks() == 0 ? relabelled(x, label) : pass(x, by, way);
  return Tape::record(y, {x}, false,
                      [&mesh, set, by](const Tensor& dy) { return shift(dy, mesh, set, -by); });
}

Tensor total(const Tensor& x) {
  require(x.size() == 1, "total: wants a scalar, found ", x.text(), "; sum it first");
  return Tape::record(
      relabelled(x, total(x.label())), {x}, false,
      [label = gradient_of(x.label())](const Tensor& dy) { return relabelled(dy, label); });
}

Tensor once(const Tensor& x, const Mesh& mesh, const Axes& set) {
  const Label label = move("once", x.label(), set, invariant, partial);
  const Tensor y = mesh.coordinate(set) == 0
                       ? relabelled(x, label)
                       : Tensor::zeros(x.shape(), x.dtype(), x.device(), label);
  return Tape::record(y, {x}, false, [label = gradient_of(x.label())](const Tensor& dy) {
    return relabelled(dy, label);
  });
}

Tensor all_max(const Tensor& x, const Mesh& mesh, const Axes& set) {
  require(x.label().constant, "all_max: has no gradient, and ", x.text(),
          " is not a constant; detached() it");
  for (const Axis a : set)
    require(x.label()[a] != partial, "all_max: partial on ", name(a), ", found ", x.text(),
            "; all_reduce() it first");
  const Move way{"all_max", mesh, set, x.label().with(set, replicated)};
  return way.ranks() == 1 ? relabelled(x, way.label) : largest_of_all(x, way);
}

Tensor cross(const Tensor& x, const Mesh& mesh) {
  return Tape::record(relabelled(x, cross(x.label(), mesh.tp_is_etp())), {x}, false,
                      [&mesh](const Tensor& dy) { return cross(dy, mesh); });
}

}  // namespace pf
