#include "core/spread.h"

#include <algorithm>

#include "core/error.h"

namespace pf {
namespace {

using enum Spread;

bool has(const Axes& set, Axis axis) {
  return std::ranges::find(set, axis) != set.end();
}

// Where `axis` stands in the labels of `view`; 5 if it does not.
std::size_t place(View view, Axis axis) {
  const Axes& all = axes_of(view);
  return std::size_t(std::ranges::find(all, axis) - all.begin());
}

// What takes a tensor from one spread to another.
const char* missing_call(Spread from, Spread to) {
  if (is_varying(from) && is_varying(to)) return "all_to_all() or shift() it first";
  if (is_varying(from))
    return to == invariant    ? "all_gather_invariant() it first"
           : to == replicated ? "all_gather() it first"
                              : "sum it first, or total() a scalar";
  if (from == invariant)
    return to == replicated ? "replicate() it first"
           : to == partial  ? "once() it first"
                            : "slice() it first";
  if (from == partial)
    return to == invariant    ? "all_reduce() it first"
           : to == replicated ? "all_reduce() and replicate() it first"
                              : "reduce_scatter() it first";
  return is_varying(to) ? "take() it first" : "it was replicated too early";
}

}  // namespace

Axes operator*(Axes a, const Axes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const Axes& axes_of(View view) {
  static const Axes of_dense = axes::tp * axes::cp * axes::dp * axes::pp;
  static const Axes of_expert = axes::etp * axes::ep * axes::edp * axes::pp;
  return view == View::dense ? of_dense : of_expert;
}

const char* name(Spread spread) {
  constexpr const char* names[] = {"invariant", "replicated", "partial", "rows",
                                   "columns",   "experts",    "others",  "layers"};
  return names[std::size_t(spread)];
}

const char* name(Axis axis) {
  constexpr const char* names[] = {"share", "kv", "cp", "dp", "etp", "ep", "edp", "pp", "ends"};
  return names[std::size_t(axis)];
}

std::string name(const Axes& set) {
  std::string out;
  for (std::size_t i = 0; i < set.size(); ++i) {
    const bool both = set[i] == Axis::share && i + 1 < set.size() && set[i + 1] == Axis::kv;
    out += (out.empty() ? "" : " x ") + std::string(both ? "tp" : name(set[i]));
    i += both;
  }
  return out;
}

Spread dual(Spread spread) {
  return spread == replicated ? partial : spread == partial ? replicated : spread;
}

Spread Label::operator[](Axis axis) const {
  const std::size_t at = place(view, axis);
  require(at < axes_of(view).size(), "label: no axis ", name(axis), " in the ",
          view == View::dense ? "dense" : "expert", " view; cross()");
  return on[at];
}

Label Label::with(const Axes& set, Spread spread) const {
  Label y = *this;
  for (Axis a : set) {
    static_cast<void>((*this)[a]);
    y.on[place(view, a)] = spread;
  }
  return y;
}

Label dense(Spread on_tp, Spread on_cp, Spread on_dp, Spread on_pp) {
  return {View::dense, false, {on_tp, on_tp, on_cp, on_dp, on_pp}};
}

Label expert(Spread on_etp, Spread on_ep, Spread on_edp, Spread on_pp) {
  return {View::expert, false, {on_etp, on_ep, on_edp, on_pp, invariant}};
}

Label constant(Label x) {
  for (std::size_t i = 0; i < axes_of(x.view).size(); ++i)
    if (x.on[i] == invariant) x.on[i] = replicated;
  x.constant = true;
  return x;
}

Label gradient_of(const Label& x) {
  Label y = x;
  std::ranges::transform(x.on, y.on.begin(), dual);
  return y;
}

std::string text(const Label& x) {
  std::string out;
  for (Axis a : axes_of(x.view)) {
    if (a == Axis::share && x[a] == x[Axis::kv]) continue;
    const bool both = a == Axis::kv && x[a] == x[Axis::share];
    out += (out.empty() ? "" : " ") + std::string(both ? "tp" : name(a)) + ':' + name(x[a]);
  }
  return out + (x.constant ? " (constant)" : "");
}

// On each axis the spreads of {operands, gradient of the result} are {I,I,I}, {R,R,P}, {R,V,V} or
// {V,V,V}. The rule is symmetric, which is why backward needs no rules of its own.
Label meet(std::string_view op, Meeting kind, std::initializer_list<Label> operands) {
  Label y = *operands.begin();
  y.constant = std::ranges::all_of(operands, &Label::constant);
  for (const Label& x : operands)
    require(x.view == y.view, op, ": one operand is ", text(x), ", another ", text(y), "; cross()");
  const Axes& all = axes_of(y.view);
  const int count = int(operands.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    int neutral = 0, sums = 0, alike = 0;
    Spread cut = replicated;
    for (const Label& x : operands) {
      const Spread s = x.on[i];
      neutral += x.constant && s == replicated;
      sums += s == partial;
      alike += s == invariant;
      if (!is_varying(s)) continue;
      require(cut == replicated || cut == s, op, ": one operand is cut by ", name(cut),
              " and another by ", name(s), " on ", name(all[i]));
      cut = s;
    }
    const bool linear = kind == Meeting::product ? sums == 1 && !alike && cut == replicated
                                                 : kind == Meeting::sum && sums == count;
    require(!sums || linear, op, ": an operand is partial on ", name(all[i]),
            "; all_reduce() or reduce_scatter() it first");
    require(!alike || alike + neutral == count, op, ": an operand that is invariant on ",
            name(all[i]), " meets one that is ", name(cut), "; replicate() or slice() it first");
    y.on[i] = sums ? partial : alike ? invariant : cut;
  }
  return y;
}

Label linear(std::string_view op, const Label& x, const Label& w) {
  struct Rule {
    Spread x, w, y;
  };
  constexpr Rule rules[] = {{invariant, invariant, invariant}, {replicated, replicated, replicated},
                            {rows, replicated, rows},          {partial, replicated, partial},
                            {replicated, rows, columns},       {columns, columns, partial},
                            {experts, experts, experts},       {experts, replicated, experts},
                            {layers, layers, layers},          {layers, replicated, layers}};
  require(x.view == w.view, op, ": x is ", text(x), ", w is ", text(w), "; cross()");
  Label y = x;
  y.constant = x.constant && w.constant;
  const Axes& all = axes_of(x.view);
  for (std::size_t i = 0; i < all.size(); ++i) {
    // A constant operand with one value has no gradient: it serves as either, where it must.
    const auto serves = [](const Label& operand, Spread found, Spread wanted) {
      return found == wanted || (operand.constant && found == replicated && wanted == invariant);
    };
    const auto* rule = std::ranges::find_if(
        rules, [&](const Rule& r) { return r.x == x.on[i] && r.w == w.on[i]; });
    if (rule == std::end(rules))
      rule = std::ranges::find_if(
          rules, [&](const Rule& r) { return serves(x, x.on[i], r.x) && serves(w, w.on[i], r.w); });
    require(rule != std::end(rules), op, ": x is ", name(x.on[i]), " and w is ", name(w.on[i]),
            " on ", name(all[i]), "; all_gather() or replicate() x, or declare w otherwise");
    y.on[i] = rule->y;
  }
  return y;
}

Label row_wise(std::string_view op, const Label& x) {
  const Axes& all = axes_of(x.view);
  for (std::size_t i = 0; i < all.size(); ++i)
    require(x.on[i] != columns, op, ": wants whole rows, but columns are cut on ", name(all[i]),
            "; all_gather() them, or reduce the parts");
  return meet(op, Meeting::any, {x});
}

Label attention(const Label& q, const Label& k) {
  require(q.view == k.view, "attention: q is ", text(q), ", k is ", text(k), "; cross()");
  Label y = q;
  y.constant = q.constant && k.constant;
  const Axes& all = axes_of(q.view);
  for (std::size_t i = 0; i < all.size(); ++i) {
    // A constant with one value has no gradient: it serves as either.
    const Spread s =
        q.constant && q.on[i] == replicated && k.on[i] == invariant ? invariant : q.on[i];
    const Spread t = k.constant && k.on[i] == replicated && s == invariant ? invariant : k.on[i];
    const bool whole_sequences = all[i] == Axis::dp;
    const bool fits = s == layers ? t == layers
                      : is_varying(s)
                          ? t == replicated || (s == columns && t == columns) ||
                                (s == rows && (t == others || (t == rows && whole_sequences)))
                          : s == t && s != partial;
    require(fits, "attention: q is ", name(s), " and k ", name(t), " on ", name(all[i]),
            "; all_gather() k and v");
    y.on[i] = s;
  }
  return y;
}

Label embedding(std::string_view op, const Label& ids, const Label& w) {
  require(ids.view == w.view, op, ": ids are ", text(ids), ", w is ", text(w), "; cross()");
  Label y = w;
  const Axes& all = axes_of(w.view);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (w.on[i] == invariant) {
      require(ids.on[i] == replicated || ids.on[i] == invariant, op, ": ids are ", name(ids.on[i]),
              " and w is invariant on ", name(all[i]), "; declare w replicated");
      continue;
    }
    if (w.on[i] == layers) continue;
    require(ids.on[i] == replicated || w.on[i] == replicated, op, ": ids are ", name(ids.on[i]),
            " and w is cut by ", name(w.on[i]), " on ", name(all[i]), "; all_gather() the ids");
    y.on[i] = w.on[i] == rows ? partial : is_varying(w.on[i]) ? w.on[i] : ids.on[i];
  }
  return y;
}

Label sum(std::string_view op, const Label& x, Spread cut, const Axes& set) {
  Label y = x;
  for (Axis a : set) {
    require(x[a] == cut || !is_varying(x[a]), op, ": wants ", name(cut), " on ", name(a),
            ", found ", name(x[a]));
    if (x[a] == cut) y = y.with({a}, partial);
  }
  return y;
}

Label total(const Label& x) {
  Label y = x;
  for (Axis a : axes_of(x.view))
    if (is_varying(x[a])) y = y.with({a}, partial);
  return y;
}

Label move(std::string_view op, const Label& x, const Axes& set, Spread from, Spread to) {
  for (Axis a : set) {
    require(has(axes_of(x.view), a), op, ": no axis ", name(a), " in the view of ", text(x),
            "; cross()");
    const bool fits = x[a] == from || (x.constant && x[a] == replicated && from == invariant);
    require(fits, op, ": wants ", name(from), " on ", name(a), ", found ", name(x[a]), " in ",
            text(x), "; ", missing_call(x[a], from));
  }
  return x.with(set, x.constant && to == invariant ? replicated : to);
}

Label cross(const Label& x, bool tp_is_etp) {
  const bool from_dense = x.view == View::dense;
  const Spread lead = from_dense ? x[Axis::share] : x[Axis::etp];
  const Spread rest = from_dense ? x[Axis::cp] : x[Axis::ep];
  const Axes others_of_view = from_dense ? axes::cp * axes::dp : axes::ep * axes::edp;
  for (Axis a : from_dense ? axes::tp : axes::etp)
    require(x[a] == lead, "cross: not alike on all axes: ", text(x));
  for (Axis a : others_of_view)
    require(x[a] == rest, "cross: not alike on all axes: ", text(x),
            "; slice() what is invariant, reduce what is partial");
  require(tp_is_etp || lead == rest, "cross: not alike on all axes: ", text(x),
          "; slice() what is invariant, reduce what is partial");
  Label y =
      from_dense ? expert(lead, rest, rest, x[Axis::pp]) : dense(lead, rest, rest, x[Axis::pp]);
  y.constant = x.constant;
  return y;
}

void require_root(const Label& loss) {
  for (Axis a : axes_of(loss.view))
    require(loss[a] == invariant || loss[a] == partial, "backward: the loss is ", text(loss),
            "; it must be invariant or partial on every axis: all_reduce() or total() it");
}

Axes summed_over(const Label& parameter) {
  Axes out;
  for (Axis a : axes_of(parameter.view))
    if (parameter[a] == replicated) out.push_back(a == Axis::pp ? Axis::ends : a);
  return out;
}

}  // namespace pf
