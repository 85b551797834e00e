// The rules of spreads, axis by axis.
#include "core/spread.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "core/error.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;

const std::vector<Spread> all_spreads{invariant, replicated, partial, rows,
                                      columns,   experts,    others,  layers};

// A label with `spread` on tp; elsewhere what fits everything.
Label on_tp(Spread spread) {
  return dense(spread, invariant, invariant, invariant);
}

// What a rule makes on tp; nothing for an error.
template <class Rule>
std::optional<Spread> result(Rule rule) {
  try {
    return rule()[Axis::share];
  } catch (const Error&) {
    return {};
  }
}

TEST(Spread, TheDualOfADualIsTheSpread) {
  for (Spread s : all_spreads) EXPECT_EQ(dual(dual(s)), s);
  EXPECT_EQ(dual(replicated), partial);
  for (Spread s : {invariant, rows, columns, experts, others, layers}) EXPECT_EQ(dual(s), s);
}

// On each axis the spreads of {operands, gradient of the result} are {I,I,I}, {R,R,P}, {R,V,V} or
// {V,V,V}; partial goes through sums of partials and products with replicated.
std::optional<Spread> wanted_meeting(Meeting kind, Spread a, Spread b) {
  if (a == partial || b == partial) {
    if (kind == Meeting::sum && a == b) return partial;
    if (kind == Meeting::product && (a == replicated || b == replicated)) return partial;
    return {};
  }
  if (a == b) return a;
  if (a == invariant || b == invariant) return {};
  if (a == replicated) return b;
  if (b == replicated) return a;
  return {};
}

TEST(Spread, TwoOperandsMeetAsTheTableSays) {
  for (Meeting kind : {Meeting::any, Meeting::sum, Meeting::product})
    for (Spread a : all_spreads)
      for (Spread b : all_spreads)
        EXPECT_EQ(result([&] {
                    return meet("op", kind, {on_tp(a), on_tp(b)});
                  }),
                  wanted_meeting(kind, a, b))
            << name(a) << ' ' << name(b) << ' ' << int(kind);
}

TEST(Spread, MeetingIsSymmetric) {
  for (Meeting kind : {Meeting::any, Meeting::sum, Meeting::product})
    for (Spread a : all_spreads)
      for (Spread b : all_spreads)
        EXPECT_EQ(result([&] {
                    return meet("op", kind, {on_tp(a), on_tp(b)});
                  }),
                  result([&] {
                    return meet("op", kind, {on_tp(b), on_tp(a)});
                  }));
}

TEST(Spread, AConstantOfOneValueMeetsInvariantAndReplicated) {
  for (Meeting kind : {Meeting::any, Meeting::sum, Meeting::product})
    for (Spread s : {invariant, replicated, rows, columns, experts, others, layers}) {
      const Label y = meet("op", kind, {constant(on_tp(invariant)), on_tp(s)});
      EXPECT_EQ(y[Axis::share], s);
      EXPECT_FALSE(y.constant);
    }
}

TEST(Spread, WhatConstantsMakeIsAConstant) {
  const Label y = meet("op", Meeting::product, {constant(on_tp(rows)), constant(on_tp(invariant))});
  EXPECT_EQ(y, constant(on_tp(rows)));
}

TEST(Spread, AConstantWritesInvariantAsReplicated) {
  EXPECT_EQ(constant(on_tp(invariant)).on, constant(on_tp(replicated)).on);
  EXPECT_TRUE(constant(on_tp(partial)).constant);
  EXPECT_EQ(constant(on_tp(partial))[Axis::kv], partial);
}

TEST(Spread, LinearTakesWhatItsTableSaysAndNothingElse) {
  struct Rule {
    Spread x, w, y;
  };
  const std::vector<Rule> rules{
      {invariant, invariant, invariant}, {replicated, replicated, replicated},
      {rows, replicated, rows},          {partial, replicated, partial},
      {replicated, rows, columns},       {columns, columns, partial},
      {experts, experts, experts},       {experts, replicated, experts},
      {layers, layers, layers},          {layers, replicated, layers}};
  for (Spread x : all_spreads)
    for (Spread w : all_spreads) {
      std::optional<Spread> wanted;
      for (const Rule& rule : rules)
        if (rule.x == x && rule.w == w) wanted = rule.y;
      EXPECT_EQ(result([&] { return linear("op", on_tp(x), on_tp(w)); }), wanted)
          << name(x) << ' ' << name(w);
    }
}

TEST(Spread, AConstantWeightFitsEitherFormOfAnActivation) {
  for (Spread x : {invariant, replicated})
    EXPECT_EQ(linear("op", on_tp(x), constant(on_tp(replicated)))[Axis::kv], x);
}

TEST(Spread, RowWiseOpsRefuseColumnsAndPartialSums) {
  for (Spread s : all_spreads) {
    const auto found = result([&] { return row_wise("op", on_tp(s)); });
    if (s == columns || s == partial)
      EXPECT_EQ(found, std::nullopt) << name(s);
    else
      EXPECT_EQ(found, s);
  }
}

TEST(Spread, AttentionTakesWhatItsTableSaysAndNothingElse) {
  struct Pair {
    Spread q, k;
  };
  const std::vector<Pair> pairs{
      {invariant, invariant}, {replicated, replicated}, {rows, replicated},
      {columns, replicated},  {experts, replicated},    {others, replicated},
      {columns, columns},     {rows, others},           {layers, layers}};
  for (Spread q : all_spreads)
    for (Spread k : all_spreads) {
      std::optional<Spread> wanted;
      for (const Pair& pair : pairs)
        if (pair.q == q && pair.k == k) wanted = q;
      EXPECT_EQ(result([&] { return attention(on_tp(q), on_tp(k)); }), wanted)
          << name(q) << ' ' << name(k);
    }
}

TEST(Spread, RowsMeetRowsInAttentionOnDpAlone) {
  const Label x = dense(replicated, replicated, rows);
  EXPECT_EQ(attention(x, x), x);
  expect_error([&] { attention(x.with(axes::cp, rows), x.with(axes::cp, rows)); },
               {"attention: q is rows and k rows on cp", "all_gather() k and v"});
}

TEST(Spread, EmbeddingTakesWhatItsTableSaysAndNothingElse) {
  for (Spread ids : all_spreads)
    for (Spread w : {invariant, replicated, rows, columns, layers}) {
      std::optional<Spread> wanted;
      if (w == invariant && (ids == replicated || ids == invariant)) wanted = invariant;
      if (w == replicated) wanted = ids;
      if (w == rows && ids == replicated) wanted = partial;
      if (w == columns && ids == replicated) wanted = columns;
      if (w == layers) wanted = layers;
      EXPECT_EQ(result([&] { return embedding("op", on_tp(ids), on_tp(w)); }), wanted)
          << name(ids) << ' ' << name(w);
    }
}

TEST(Spread, ASumOverACutDimIsPartialOnTheAxesItSumsOver) {
  const Label x = dense(rows, rows, rows);
  EXPECT_EQ(sum("op", x, rows, axes::tp * axes::cp), dense(partial, partial, rows));
  EXPECT_EQ(sum("op", dense(replicated, rows, rows), rows, axes::tp * axes::cp),
            dense(replicated, partial, rows));
  expect_error([&] { sum("counts", dense(columns, rows, rows), rows, axes::tp); },
               {"counts: wants rows on share, found columns"});
}

TEST(Spread, ATotalIsPartialWhereverItsOperandVaries) {
  EXPECT_EQ(total(dense(columns, rows, replicated, layers)),
            dense(partial, partial, replicated, partial));
  EXPECT_EQ(total(dense(invariant, partial, others, invariant)),
            dense(invariant, partial, partial, invariant));
}

TEST(Spread, AMoveWantsItsSpreadOnEveryAxisOfItsSet) {
  for (Spread from : {invariant, partial, rows})
    for (Spread found : all_spreads) {
      const Axes both = axes::tp * axes::cp;
      const Label x = dense(from, found, rows);
      const auto made = result([&] { return move("op", x, both, from, columns); });
      EXPECT_EQ(made.has_value(), found == from) << name(found);
    }
  EXPECT_EQ(move("op", dense(partial, partial, rows), axes::tp * axes::cp, partial, rows),
            dense(rows, rows, rows));
}

TEST(Spread, AMoveOverAnAxisOfTheOtherViewNamesTheMissingCross) {
  expect_error([] { move("all_to_all", dense(rows, rows, rows), axes::ep, rows, experts); },
               {"all_to_all: no axis ep", "cross()"});
}

TEST(Spread, AConstantThatIsWholeServesAMoveFromInvariant) {
  const Label whole = constant(dense(invariant, rows, rows));
  EXPECT_EQ(move("slice", whole, axes::tp, invariant, rows)[Axis::kv], rows);
  EXPECT_EQ(move("all_reduce", constant(dense(partial, rows, rows)), axes::tp, partial,
                 invariant)[Axis::kv],
            replicated);
}

TEST(Spread, CrossKeepsOneSpreadOfAllAxesAndPp) {
  for (Spread s : {rows, partial, invariant}) {
    const Label x = dense(s, s, s, partial);
    EXPECT_EQ(cross(x), expert(s, s, s, partial));
    EXPECT_EQ(cross(cross(x)), x);
  }
}

TEST(Spread, CrossOfUnlikeAxesIsAnErrorUnlessTpIsEtp) {
  const Label x = dense(columns, rows, rows);
  expect_error([&] { cross(x); }, {"cross: not alike", "tp:columns", "slice()"});
  EXPECT_EQ(cross(x, true), expert(columns, rows, rows));
  expect_error([&] { cross(x.with(axes::dp, replicated), true); }, {"cross: not alike"});
  expect_error([&] { cross(dense(rows, rows, rows).with({Axis::kv}, columns), true); },
               {"cross: not alike", "share:rows", "kv:columns"});
  expect_error([&] { cross(expert(rows, experts, rows)); }, {"cross: not alike", "ep:experts"});
}

TEST(Spread, ARootIsInvariantOrPartialOnEveryAxis) {
  for (Spread s : all_spreads) {
    const bool fits = s == invariant || s == partial;
    EXPECT_EQ(result([&] {
                require_root(on_tp(s));
                return on_tp(s);
              }).has_value(),
              fits)
        << name(s);
  }
  expect_error([] { require_root(dense(invariant, rows, partial)); },
               {"backward: the loss is", "cp:rows", "all_reduce()", "total()"});
}

TEST(Spread, AGradientIsSummedOverTheAxesOnWhichItsParameterIsReplicated) {
  EXPECT_EQ(summed_over(dense(rows, replicated, replicated)), axes::cp * axes::dp);
  EXPECT_EQ(summed_over(dense(replicated, replicated, replicated)), axes::tp * axes::cp * axes::dp);
  EXPECT_EQ(summed_over(expert(columns, experts, replicated)), axes::edp);
  EXPECT_EQ(summed_over(dense(invariant, invariant, invariant)), Axes{});
  EXPECT_EQ(summed_over(dense(rows, replicated, replicated, replicated)),
            (axes::cp * axes::dp * Axes{Axis::ends}));
}

TEST(Spread, OperandsOfTwoViewsAreAnErrorThatNamesCross) {
  const Label x = dense(rows, rows, rows), y = expert(rows, rows, rows);
  expect_error([&] { meet("add", Meeting::sum, {x, y}); }, {"add", "etp:rows", "cross()"});
  expect_error([&] { linear("up", x, y); }, {"up", "etp:rows", "cross()"});
  expect_error([&] { attention(x, y); }, {"attention", "etp:rows", "cross()"});
  expect_error([&] { embedding("words", x, y); }, {"words", "etp:rows", "cross()"});
}

TEST(Spread, LabelsAreToldByAxisAndTpAsOneWhereItIs) {
  const Label x = dense(rows, replicated, partial);
  EXPECT_EQ(text(x), "tp:rows cp:replicated dp:partial pp:layers");
  EXPECT_EQ(text(constant(x.with({Axis::share}, replicated))),
            "share:replicated kv:rows cp:replicated dp:partial pp:layers (constant)");
  EXPECT_EQ(text(expert(columns, experts, rows)), "etp:columns ep:experts edp:rows pp:layers");
  EXPECT_EQ(name(axes::tp * axes::cp), "tp x cp");
  EXPECT_EQ(name(Axes{Axis::share}), "share");
}

TEST(Spread, AnAxisOfTheOtherViewHasNoSpread) {
  expect_error([] { static_cast<void>(dense(rows, rows, rows)[Axis::ep]); },
               {"no axis ep in the dense view", "cross()"});
  expect_error([] { expert(rows, rows, rows).with(axes::cp, rows); },
               {"no axis cp in the expert view"});
}

}  // namespace
}  // namespace pf
