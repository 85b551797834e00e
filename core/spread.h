// Spreads: how the ranks of each mesh axis hold a tensor, and what may meet what.
//
// Labels only, no numbers: sizes play no part, so one rank proves the labels of every layout. The
// theory is in docs/design.md, section 4.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace pf {

enum class Spread : std::uint8_t {
  invariant,   // one value, the same work with it on every rank; its gradient too
  replicated,  // one value, used differently on each rank; its gradient is partial
  partial,     // the sum over the ranks, not yet done; its gradient is replicated
  rows,        // varying: the ranks divide rows (tokens; of a weight, outputs)
  columns,     // varying: they divide columns (features, heads, vocabulary; of a weight, inputs)
  experts,     // varying: they divide experts, or rows that were sorted by expert
  others,      // varying: the rows of another rank, after a shift
  layers,      // varying: pipeline stages hold different layers
};

// The dense axes, then the expert axes of the same ranks, then pipeline stages, which both views
// share. tp is share x kv: the `share` ranks of one kv coordinate use one KV head.
// `ends` is no axis of a view but a group: the first and the last stage, of pp.
enum class Axis : std::uint8_t { share, kv, cp, dp, etp, ep, edp, pp, ends };
enum class View : std::uint8_t { dense, expert };
using Axes = std::vector<Axis>;

// Sets of axes that act as one group, fastest first.
namespace axes {
inline const Axes tp{Axis::share, Axis::kv}, cp{Axis::cp}, dp{Axis::dp}, pp{Axis::pp};
inline const Axes etp{Axis::etp}, ep{Axis::ep}, edp{Axis::edp};
}  // namespace axes

Axes operator*(Axes a, const Axes& b);
const Axes& axes_of(View view);
const char* name(Spread spread);
const char* name(Axis axis);
std::string name(const Axes& set);  // "tp", "cp x dp"
constexpr bool is_varying(Spread spread) {
  return spread >= Spread::rows;
}
Spread dual(Spread spread);  // of the gradient

// The label of one tensor: a spread for each axis of its view. A constant (integers, statistics,
// what was detached) has no gradient: for it invariant and replicated are one thing, written
// replicated. A default label is invariant everywhere: one rank alone.
struct Label {
  View view = View::dense;
  bool constant = false;
  std::array<Spread, 5> on{};

  Spread operator[](Axis axis) const;
  Label with(const Axes& set, Spread spread) const;
  friend bool operator==(const Label&, const Label&) = default;
};

Label dense(Spread on_tp, Spread on_cp, Spread on_dp, Spread on_pp = Spread::layers);
Label expert(Spread on_etp, Spread on_ep, Spread on_edp, Spread on_pp = Spread::layers);
Label constant(Label x);
Label gradient_of(const Label& x);
std::string text(const Label& x);

// What ops make of labels. Each returns the label of the result, or throws Error naming the op, the
// axis, what was found there and the call that is missing.

// What a partial operand may pass: nothing; a sum of partials; a product with replicated.
enum class Meeting { any, sum, product };
Label meet(std::string_view op, Meeting kind, std::initializer_list<Label> operands);
Label linear(std::string_view op, const Label& x, const Label& w);  // x [rows, in], w [out, in]
Label row_wise(std::string_view op, const Label& x);                // softmax, norms: whole rows
Label attention(const Label& q, const Label& k);                    // dp ranks hold whole sequences
Label embedding(std::string_view op, const Label& ids, const Label& w);
// A sum over a dim that the ranks of `set` divide; on other axes each rank keeps its own sum.
Label sum(std::string_view op, const Label& x, Spread cut, const Axes& set);
Label total(const Label& x);  // of all elements on all ranks

// The table of collectives: wants `from` on every axis of `set`, makes `to`.
Label move(std::string_view op, const Label& x, const Axes& set, Spread from, Spread to);
// The other view of the same ranks: all axes alike; only where tp and etp are the same groups may
// tp's spread be another one than the rest's.
Label cross(const Label& x, bool tp_is_etp = false);

void require_root(const Label& loss);  // where backward may start
// The one rule for a parameter's gradient. On pp a parameter is replicated where the first and the
// last stage use it (a tied embedding): it is summed over `ends`.
Axes summed_over(const Label& parameter);

}  // namespace pf
