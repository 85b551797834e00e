// The labels of a whole model, form by form, and the mistakes that they catch. The calls are those
// of the model, with labels in place of tensors.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "core/spread.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using namespace axes;

Label replicate(const Label& x, const Axes& set) {
  return move("replicate", x, set, invariant, replicated);
}
Label all_reduce(const Label& x, const Axes& set) {
  return move("all_reduce", x, set, partial, invariant);
}
Label all_gather(const Label& x, const Axes& set) {
  return move("all_gather", x, set, rows, replicated);
}
Label reduce_scatter(const Label& x, const Axes& set) {
  return move("reduce_scatter", x, set, partial, rows);
}
Label all_gather_invariant(const Label& x, const Axes& set) {
  return move("all_gather_invariant", x, set, rows, invariant);
}
Label slice(const Label& x, const Axes& set) {
  return move("slice", x, set, invariant, rows);
}
Label all_to_all(const Label& x, const Axes& set, Spread from, Spread to) {
  return move("all_to_all", x, set, from, to);
}
Label once(const Label& x, const Axes& set) {
  return move("once", x, set, invariant, partial);
}

// How tokens lie on tp between the blocks, and where a whole weight beside them must be.
struct Tokens {
  bool is_cut = true;
  Spread beside() const { return is_cut ? replicated : invariant; }
  Label enter(const Label& x) const { return is_cut ? all_gather(x, tp) : replicate(x, tp); }
  Label leave(const Label& x) const { return is_cut ? reduce_scatter(x, tp) : all_reduce(x, tp); }
};

using Labels = std::map<std::string, Label>;

Label norm_of(const Label& x, const Tokens& t) {
  return meet("rms_norm", Meeting::any, {x, dense(t.beside(), replicated, replicated)});
}

Label attend(const Tokens& t, const Label& x, const Label& place, Labels& seen) {
  const Label h = seen["normed, entered"] = t.enter(norm_of(x, t));
  const Label wq = dense(rows, replicated, replicated), wkv = wq.with({Axis::share}, replicated);
  const Label head_norm = dense(replicated, replicated, replicated);
  const auto turned = [&](const Label& y) {
    return meet("norm, rope", Meeting::any, {y, head_norm, place});
  };
  const Label q = seen["q"] = turned(linear("q", h, wq));
  const Label k = seen["k"] = turned(linear("k", h, wkv));
  const Label y = seen["attended"] = attention(q, seen["all k"] = all_gather(k, cp));
  const Label out = linear("out", y, dense(columns, replicated, replicated));
  return t.leave(seen["before leaving"] = out);
}

Label mixture(const Tokens& t, const Label& x, const Label& valid, Labels& seen) {
  Label h = norm_of(x, t);
  const Label to_shared = t.enter(h);
  if (!t.is_cut) h = seen["this rank's tokens"] = slice(h, tp);

  const Label router = dense(replicated, replicated, replicated);
  const Label scores = seen["scores"] = row_wise("softmax", linear("router", h, router));
  const Label chosen = meet("mask", Meeting::product, {constant(scores), slice(valid, tp)});
  const Label counts = seen["counts"] = sum("counts", chosen, rows, tp * cp * dp);
  const Label f = seen["f"] = all_reduce(counts, tp * cp * dp);
  seen["balance"] = total(meet("balance", Meeting::product, {scores, f}));

  const Label there = seen["crossed"] = cross(meet("permute", Meeting::product, {h, constant(h)}));
  const Label sent = seen["dispatched"] = all_to_all(there, ep, rows, experts);
  const Label all = seen["gathered"] = all_gather(sent, etp);
  const Label up = linear("up", all, expert(rows, experts, replicated));
  const Label a = seen["hidden"] = meet("x weight", Meeting::product, {up, all});
  const Label y = seen["over etp"] = linear("down", a, expert(columns, experts, replicated));
  Label back = cross(all_to_all(reduce_scatter(y, etp), ep, experts, rows));
  seen["returned"] = back;
  if (!t.is_cut) back = all_gather_invariant(back, tp);

  const Label shared = linear("up", to_shared, dense(rows, replicated, replicated));
  const Label shared_y = linear("down", shared, dense(columns, replicated, replicated));
  return meet("add", Meeting::sum, {back, t.leave(shared_y)});
}

Labels walk(const Tokens& t) {
  Labels seen;
  const Label ids = constant(dense(replicated, rows, rows));
  const Label w = dense(rows, replicated, replicated);
  Label x = t.leave(seen["looked up"] = embedding("embedding", ids, w));
  seen["embedded"] = x;
  x = meet("add", Meeting::sum, {x, attend(t, x, ids, seen)});
  x = meet("add", Meeting::sum, {x, mixture(t, x, ids, seen)});
  seen["residual"] = x;
  const Label logits = seen["logits"] = linear("head", t.enter(norm_of(x, t)), w);
  const Label top = constant(logits).with(tp, replicated);  // all_max(): a statistic
  const Label e = meet("exp", Meeting::any, {logits, top});
  seen["sum of exp"] = sum("row sum", e, columns, tp);
  const Label picked = all_reduce(sum("pick", logits, columns, tp), tp);
  const Label sums = all_reduce(seen["sum of exp"], tp);
  seen["loss"] = total(meet("add", Meeting::sum, {sums, picked, top}));
  seen["reported"] = all_reduce(seen["loss"], cp * dp * pp);
  // Squares of summed gradients; what ranks hold alike is counted once.
  const Label of_dense = total(w.with(cp * dp, invariant));
  const Label of_expert = once(total(expert(rows, experts, invariant)), edp);
  const Label both = meet("add", Meeting::sum, {once(of_dense, cp * dp), cross(of_expert)});
  seen["squared norm"] = all_reduce(both, tp * cp * dp * pp);
  return seen;
}

// What both forms have.
void expect_common(Labels& seen) {
  const Label keys = dense(columns, rows, rows).with({Axis::share}, replicated);
  EXPECT_EQ(seen["looked up"], dense(partial, rows, rows));
  EXPECT_EQ(seen["normed, entered"], dense(replicated, rows, rows));
  EXPECT_EQ(seen["q"], dense(columns, rows, rows));
  EXPECT_EQ(seen["k"], keys);
  EXPECT_EQ(seen["all k"], keys.with(cp, replicated));
  EXPECT_EQ(seen["attended"], dense(columns, rows, rows));
  EXPECT_EQ(seen["before leaving"], dense(partial, rows, rows));
  EXPECT_EQ(seen["scores"], dense(rows, rows, rows));
  EXPECT_EQ(seen["counts"], constant(dense(partial, partial, partial)));
  EXPECT_EQ(seen["f"], constant(dense(replicated, replicated, replicated)));
  EXPECT_EQ(seen["balance"], dense(partial, partial, partial, partial));
  EXPECT_EQ(seen["crossed"], expert(rows, rows, rows));
  EXPECT_EQ(seen["dispatched"], expert(rows, experts, rows));
  EXPECT_EQ(seen["gathered"], expert(replicated, experts, rows));
  EXPECT_EQ(seen["hidden"], expert(columns, experts, rows));
  EXPECT_EQ(seen["over etp"], expert(partial, experts, rows));
  EXPECT_EQ(seen["returned"], dense(rows, rows, rows));
  EXPECT_EQ(seen["logits"], dense(columns, rows, rows));
  EXPECT_EQ(seen["sum of exp"], dense(partial, rows, rows));
  EXPECT_EQ(seen["loss"], dense(invariant, partial, partial, partial));
  EXPECT_EQ(seen["reported"], dense(invariant, invariant, invariant, invariant));
  EXPECT_EQ(seen["squared norm"], dense(invariant, invariant, invariant, invariant));
  require_root(seen["loss"]);
  require_root(seen["balance"]);
}

TEST(SpreadOfAModel, WithTokensCutOverTpIsTheDesigns) {
  Labels seen = walk({.is_cut = true});
  expect_common(seen);
  EXPECT_EQ(seen["embedded"], dense(rows, rows, rows));
  EXPECT_EQ(seen["residual"], dense(rows, rows, rows));
}

TEST(SpreadOfAModel, WithTheSameTokensOnAllTpRanksIsTheDesigns) {
  Labels seen = walk({.is_cut = false});
  expect_common(seen);
  EXPECT_EQ(seen["embedded"], dense(invariant, rows, rows));
  EXPECT_EQ(seen["this rank's tokens"], dense(rows, rows, rows));
  EXPECT_EQ(seen["residual"], dense(invariant, rows, rows));
}

TEST(SpreadOfAModel, GradientsOfItsWeightsAreSummedOverTheDesignsAxes) {
  const Label query = dense(rows, replicated, replicated);
  EXPECT_EQ(summed_over(query), cp * dp);
  EXPECT_EQ(summed_over(query.with({Axis::share}, replicated)), Axes{Axis::share} * cp * dp);
  EXPECT_EQ(summed_over(dense(Tokens{true}.beside(), replicated, replicated)), tp * cp * dp);
  EXPECT_EQ(summed_over(dense(Tokens{false}.beside(), replicated, replicated)), cp * dp);
  EXPECT_EQ(summed_over(expert(rows, experts, replicated)), edp);
}

// --- Nineteen mistakes ---------------------------------------------------------------------------

const Label tokens = dense(rows, rows, rows), same = dense(invariant, rows, rows);
const Label column_cut = dense(rows, replicated, replicated);
const Label heads = dense(columns, rows, rows), pending = dense(partial, rows, rows);

TEST(Mistake, NoGatherBeforeAColumnCutWeight) {
  expect_error([] { linear("up", tokens, column_cut); },
               {"up: x is rows and w is rows on share", "all_gather()"});
}

TEST(Mistake, NoReplicateBeforeAColumnCutWeight) {
  expect_error([] { linear("up", same, column_cut); },
               {"up: x is invariant and w is rows on share", "replicate()"});
}

TEST(Mistake, ANormWeightThatNobodySumsOverTp) {
  expect_error(
      [] {
        meet("rms_norm", Meeting::any, {tokens, dense(invariant, replicated, replicated)});
      },
      {"rms_norm: an operand that is invariant on share", "replicate()", "slice()"});
}

TEST(Mistake, APartialSumIntoTheResidual) {
  expect_error(
      [] {
        meet("add", Meeting::sum, {tokens, pending});
      },
      {"add: an operand is partial on share", "reduce_scatter()"});
}

TEST(Mistake, AWholeBiasAddedToAPartialSum) {
  expect_error(
      [] {
        meet("add", Meeting::sum, {pending, dense(replicated, replicated, replicated)});
      },
      {"add: an operand is partial on share", "all_reduce()"});
}

TEST(Mistake, ASoftmaxOverLogitsCutByVocabulary) {
  expect_error([] { row_wise("softmax", heads); },
               {"softmax: wants whole rows", "columns are cut on share", "all_gather()"});
}

TEST(Mistake, KeysOfThisCpRankOnly) {
  expect_error([] { attention(heads, heads); },
               {"attention: q is rows and k rows on cp", "all_gather() k and v"});
}

TEST(Mistake, KeysGatheredOverDpInstead) {
  expect_error([] { attention(heads, all_gather(heads, dp)); },
               {"attention: q is rows and k rows on cp", "all_gather() k and v"});
}

TEST(Mistake, TokensUncutOnTpEnterTheExperts) {
  expect_error([] { cross(same); }, {"cross: not alike", "tp:invariant", "slice()"});
}

TEST(Mistake, TokensCopiedOnTpEnterTheExperts) {
  expect_error([] { cross(replicate(same, tp)); }, {"cross: not alike", "tp:replicated"});
}

TEST(Mistake, FeaturesCutOnTpEnterTheExperts) {
  expect_error([] { cross(heads); }, {"cross: not alike", "tp:columns"});
}

TEST(Mistake, NoDispatch) {
  expect_error(
      [] { linear("up", all_gather(cross(tokens), etp), expert(rows, experts, replicated)); },
      {"up: x is rows and w is experts on ep"});
}

TEST(Mistake, NoReturn) {
  expect_error(
      [] {
        meet("add", Meeting::sum, {tokens, cross(all_to_all(cross(tokens), ep, rows, experts))});
      },
      {"cross: not alike", "ep:experts"});
}

TEST(Mistake, BalanceFromThisRanksTokensOnly) {
  expect_error(
      [] {
        meet("balance", Meeting::product, {tokens, constant(dense(partial, partial, partial))});
      },
      {"balance: an operand is partial on share", "all_reduce()"});
}

TEST(Mistake, ABalanceLossAddedToTheLossBeforeBothAreSums) {
  expect_error(
      [] {
        meet("add", Meeting::sum,
             {dense(invariant, partial, partial), dense(partial, partial, partial)});
      },
      {"add: an operand is partial on share", "all_reduce()"});
}

TEST(Mistake, ALossFromGatheredLogits) {
  expect_error([] { require_root(dense(replicated, partial, partial, partial)); },
               {"backward: the loss is tp:replicated", "invariant or partial"});
}

TEST(Mistake, ATokenCountOfThisReplicaOnly) {
  expect_error(
      [] {
        meet("divide", Meeting::product,
             {dense(invariant, partial, partial), constant(dense(replicated, partial, partial))});
      },
      {"divide: an operand is partial on cp", "all_reduce()"});
}

TEST(Mistake, AGradientNormWithUnreducedParts) {
  expect_error(
      [] {
        meet("add", Meeting::sum,
             {dense(partial, invariant, invariant), dense(invariant, invariant, invariant)});
      },
      {"add: an operand is partial on share", "all_reduce()"});
}

TEST(Mistake, AGradientSummedTwice) {
  expect_error([] { all_reduce(all_reduce(gradient_of(column_cut), dp), dp); },
               {"all_reduce: wants partial on dp", "dp:invariant"});
}

}  // namespace
}  // namespace pf
