// Embedding, normalisation, rotary positions and attention.
#include "core/ops/rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <tuple>
#include <vector>

#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "tests/gradients.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;
using Tensors = std::vector<Tensor>;
using Weight = std::unique_ptr<Parameter>;

struct RowsOp : testing::Test {
  Device device{make_cpu_backend(2)};
  const Label tokens = dense(rows, rows, rows), whole = dense(replicated, replicated, replicated);

  Tensor make(const Shape& shape, std::uint64_t seed, const Label& label = {},
              DType type = DType::f64) {
    return random_tensor(shape, type, device, seed, label);
  }
  Tensor ids(const std::vector<std::int32_t>& values, const Label& label = {}) {
    return ids_of(values, device).labelled(constant(label));
  }
};
using AttentionOp = RowsOp;

TEST_F(RowsOp, EmbeddingHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {6, 5}, device, whole);
  const Tensor words = ids({4, 0, 4, 4, 2, 5, 0}, tokens);
  expect_gradients([&](const Tensors&) { return Tensors{embedding(words, *w, DType::f64)}; }, {},
                   {w.get()});
}

TEST_F(RowsOp, EmbeddingInAVocabularyThatIsCutHasTheGradientsOfFiniteDifferences) {
  const Label cut = dense(rows, replicated, replicated);
  Parameter w("w", {12, 5}, {{4}, {4, 5}}, cut, Init::normal, 1);
  w.initialise(device, DType::f64, 3, 1);
  const Tensor words = ids({4, 0, 7, 8, 11, 5, 4}, dense(replicated, rows, rows));
  const Tensor y = embedding(words, w, DType::f64);
  EXPECT_EQ(y.label()[Axis::kv], partial);
  EXPECT_EQ(y.rows(1, 2).to_vector<double>(), std::vector<double>(5, 0.0));
  EXPECT_EQ(y.rows(5, 6).to_vector<double>(), w.value().rows(1, 2).to_vector<double>());
  expect_gradients([&](const Tensors&) { return Tensors{embedding(words, w, DType::f64)}; }, {},
                   {&w});
}

TEST_F(RowsOp, EmbeddingGivesTheTypeThatIsAskedFor) {
  const Weight w = make_weight("w", {6, 5}, device, {}, DType::bf16);
  EXPECT_EQ(w->value().dtype(), DType::f32);
  EXPECT_EQ(embedding(ids({1, 2}), *w, DType::bf16).dtype(), DType::bf16);
}

TEST_F(RowsOp, EmbeddingWithWrongOperandsIsAnErrorThatNamesThem) {
  const Weight w = make_weight("words", {6, 5}, device, dense(rows, replicated, replicated));
  const Tensor wide = tensor_of<std::int64_t>({1}, {1}, device);
  expect_error([&] { embedding(wide, *w, DType::f64); }, {"embedding words", "i64", "i32"});
  expect_error([&] { embedding(ids({1}), *w, DType::f32); }, {"embedding words", "f64", "f32"});
  expect_error([&] { embedding(ids({1}, tokens), *w, DType::f64); },
               {"embedding words", "ids are rows", "share", "all_gather()"});
}

TEST_F(RowsOp, RmsNormOfWholeRowsHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {7}, device, whole);
  expect_gradients([&](const Tensors& x) { return Tensors{rms_norm(x[0], *w, 1e-3)}; },
                   {make({5, 7}, 1, tokens)}, {w.get()});
}

TEST_F(RowsOp, RmsNormPerHeadHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {3}, device, whole);
  expect_gradients([&](const Tensors& x) { return Tensors{rms_norm_by_head(x[0], *w)}; },
                   {make({5, 12}, 1, dense(columns, rows, rows))}, {w.get()});
}

TEST_F(RowsOp, RmsNormOfAnInvariantHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {7}, device, dense(invariant, replicated, replicated));
  expect_gradients([&](const Tensors& x) { return Tensors{rms_norm(x[0], *w)}; },
                   {make({5, 7}, 1, dense(invariant, rows, rows))}, {w.get()});
}

TEST_F(RowsOp, RmsNormMakesRowsOfMeanSquareOne) {
  const Weight w = make_weight("w", {9}, device);
  backend(w->value()).fill(w->value(), 1);
  const Tensor y = rms_norm(make({4, 9}, 1), *w, 0);
  for (std::int64_t r = 0; r < 4; ++r) {
    double squares = 0;
    for (const double value : y.rows(r, r + 1).to_vector<double>()) squares += value * value;
    EXPECT_NEAR(squares / 9, 1, 1e-14);
  }
}

TEST_F(RowsOp, RmsNormWithWrongOperandsIsAnErrorThatNamesThem) {
  const Weight w = make_weight("norm", {7}, device, whole);
  expect_error([&] { rms_norm(make({5, 8}, 1), *w); }, {"rms_norm", "[5, 8]", "norm", "[7]"});
  expect_error(
      [&] {
        rms_norm(make({5, 7}, 1, {}, DType::bf16), *w);
      },
      {"rms_norm", "norm", "bf16", "f64"});
  expect_error(
      [&] {
        rms_norm(make({5, 7}, 1, dense(columns, rows, rows)), *w);
      },
      {"rms_norm", "columns are cut on share", "all_gather()"});
  Tape tape;
  const Tape::Recording on(&tape);
  expect_error(
      [&] {
        rms_norm(make({5, 7}, 1, dense(invariant, rows, rows)), *w);
      },
      {"rms_norm", "invariant on share", "replicate()"});
  const Weight matrix = make_weight("matrix", {7, 7}, device);
  expect_error([&] { rms_norm(make({5, 7}, 1), *matrix); }, {"rms_norm", "matrix", "[7, 7]"});
}

TEST_F(RowsOp, RopeHasTheGradientsOfFiniteDifferences) {
  const Tensor table = rope_table(9, rope_frequencies(6, 100, {}, 9), DType::f64, device);
  const Tensor position = ids({8, 0, 3, 3, 1}, dense(replicated, rows, rows));
  expect_gradients([&](const Tensors& x) { return Tensors{rope(x[0], position, table)}; },
                   {make({5, 12}, 1, dense(columns, rows, rows))});
}

TEST_F(RowsOp, RopeOfAWholeTensorByCutPositionsHasAPartialGradient) {
  const Tensor table = rope_table(9, rope_frequencies(2, 100, {}, 9), DType::f64, device);
  expect_gradients(
      [&](const Tensors& x) {
        return Tensors{rope(x[0], ids({8, 1}, tokens), table)};
      },
      {make({2, 4}, 1, dense(replicated, rows, rows))});
}

TEST_F(RowsOp, RopeInPlaceHasTheBitsOfRopeInTheStorageOfItsOperand) {
  const Tensor table = rope_table(9, rope_frequencies(6, 100, {}, 9), DType::f64, device);
  const Tensor position = ids({8, 0, 3, 3, 1});
  const auto run = [&](auto op) {
    Tape tape;
    const Tensor x = tape.watch(make({5, 12}, 1));
    Tensor between, y;
    {
      const Tape::Recording on(&tape);
      between = add(x, x);
      y = op(between, position, table);
    }
    const Tensor ys[] = {y}, dys[] = {coefficients(y, 0)};
    const bool is_in_place = y.raw() == between.raw();
    tape.backward(ys, dys);
    return std::tuple(elements(y), elements(tape.gradient(x)), is_in_place);
  };
  const auto [y, dx, apart] = run(rope);
  EXPECT_FALSE(apart);
  EXPECT_EQ(run(rope_in_place), std::tuple(y, dx, true));
}

TEST_F(RowsOp, RopeTurnsPairsByTheirAngles) {
  const double base = 50;
  const Tensor table = rope_table(12, rope_frequencies(4, base, {}, 12), DType::f64, device);
  const Tensor x = make({1, 8}, 1);
  const auto in = x.to_vector<double>();
  const auto out = rope(x, ids({11}), table).to_vector<double>();
  for (std::size_t head : {0, 4})
    for (std::size_t i : {0, 1}) {
      const double angle = 11 * std::pow(base, -2.0 * double(i) / 4);
      const double a = in[head + i], b = in[head + i + 2];
      EXPECT_NEAR(out[head + i], a * std::cos(angle) - b * std::sin(angle), 1e-14);
      EXPECT_NEAR(out[head + i + 2], b * std::cos(angle) + a * std::sin(angle), 1e-14);
    }
}

TEST_F(RowsOp, RopeMakesScoresOfDistancesAlone) {
  const Tensor table = rope_table(20, rope_frequencies(6, 100, {}, 20), DType::f64, device);
  const Tensor q = make({1, 6}, 1), k = make({1, 6}, 2);
  const auto score = [&](int of_q, int of_k) {
    const auto a = rope(q, ids({of_q}), table).to_vector<double>(),
               b = rope(k, ids({of_k}), table).to_vector<double>();
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  EXPECT_NEAR(score(7, 2), score(19, 14), 1e-13);
}

TEST_F(RowsOp, RopeWithWrongOperandsIsAnErrorThatNamesThem) {
  const Tensor table = rope_table(9, rope_frequencies(6, 100, {}, 9), DType::f64, device);
  const Tensor x = make({2, 12}, 1);
  expect_error([&] { rope(make({2, 8}, 1), ids({0, 1}), table); }, {"rope", "[2, 8]", "[9, 6]"});
  expect_error([&] { rope(x, ids({0, 1, 2}), table); }, {"rope", "[2, 12]", "[3]"});
  expect_error(
      [&] {
        rope(x, tensor_of<std::int64_t>({0, 1}, {2}, device), table);
      },
      {"rope", "position", "i64"});
  expect_error(
      [&] {
        rope(x, ids({0, 1}), rope_table(9, rope_frequencies(6, 100, {}, 9), DType::f32, device));
      },
      {"rope", "table", "f32"});
  expect_error(
      [&] {
        rope(make({2, 12}, 1, dense(partial, rows, rows)), ids({0, 1}, tokens), table);
      },
      {"rope", "partial on share"});
  expect_error([&] { rope_table(9, rope_frequencies(5, 100, {}, 9), DType::f64, device); },
               {"rope", "head_dim is 5"});
}

// --- Attention -----------------------------------------------------------------------------------

constexpr AttentionShape three_heads{.heads = 3, .kv_heads = 3, .head_dim = 2, .scale = 0.7};
constexpr AttentionShape grouped{.heads = 6, .kv_heads = 2, .head_dim = 3, .scale = 0.5};

TEST_F(AttentionOp, AttentionHasTheGradientsOfFiniteDifferences) {
  expect_gradients(
      [&](const Tensors& x) {
        return Tensors{attention(x[0], x[1], x[2], causal_areas(1, 7), three_heads)};
      },
      {make({7, 6}, 1), make({7, 6}, 2), make({7, 6}, 3)});
}

TEST_F(AttentionOp, AttentionWithSharedKeysAndSeveralAreasHasTheGradientsOfFiniteDifferences) {
  using enum Area::Kind;
  // Rows 3 and 4 see two areas each, row 8 none.
  const std::vector<Area> areas{
      {0, 3, 0, 4, causal}, {3, 5, 0, 2, full}, {3, 5, 5, 9, inverse_causal}, {5, 8, 2, 10, both}};
  expect_gradients(
      [&](const Tensors& x) { return Tensors{attention(x[0], x[1], x[2], areas, grouped)}; },
      {make({9, 18}, 1), make({11, 6}, 2), make({11, 6}, 3)});
}

TEST_F(AttentionOp, AttentionOfCutHeadsOverGatheredKeysHasTheGradientsOfFiniteDifferences) {
  const Label q = dense(columns, rows, rows), k = dense(columns, replicated, rows);
  expect_gradients(
      [&](const Tensors& x) {
        return Tensors{attention(x[0], x[1], x[2], causal_areas(2, 3), three_heads)};
      },
      {make({6, 6}, 1, q), make({6, 6}, 2, k), make({6, 6}, 3, k)});
}

TEST_F(AttentionOp, ARowThatSeesNothingGivesZeros) {
  const Tensor y = attention(make({4, 6}, 1), make({4, 6}, 2), make({4, 6}, 3),
                             {{0, 3, 0, 4, Area::Kind::full}}, three_heads);
  EXPECT_EQ(y.rows(3, 4).to_vector<double>(), std::vector<double>(6, 0.0));
}

TEST_F(AttentionOp, TheFirstRowOfACausalAreaSeesItsOwnKeyAlone) {
  const Tensor v = make({8, 6}, 3);
  const Tensor y = attention(make({8, 6}, 1), make({8, 6}, 2), v, causal_areas(2, 4), three_heads);
  for (std::int64_t row : {0, 4})
    EXPECT_LE(distance(y.rows(row, row + 1).to_vector<double>(),
                       v.rows(row, row + 1).to_vector<double>()),
              1e-15);
}

TEST_F(AttentionOp, AttentionWithoutGradientsForQStillGivesThoseOfK) {
  Tape tape;
  const Tensor q = make({3, 6}, 1).detached(), k = tape.watch(make({3, 6}, 2)),
               v = tape.watch(make({3, 6}, 3));
  Tensor y;
  {
    const Tape::Recording on(&tape);
    y = attention(q, k, v, causal_areas(1, 3), three_heads);
  }
  const Tensor ys[] = {y}, dys[] = {coefficients(y, 0)};
  tape.backward(ys, dys);
  EXPECT_NE(tape.gradient(k).to_vector<double>(), std::vector<double>(18, 0.0));
}

TEST_F(AttentionOp, AttentionWithWrongOperandsIsAnErrorThatNamesThem) {
  const auto attend = [&](const Tensor& q, const Tensor& k, const Tensor& v,
                          std::vector<Area> areas, const AttentionShape& shape) {
    attention(q, k, v, std::move(areas), shape);
  };
  const Tensor x = make({4, 6}, 1);
  const std::vector<Area> all = causal_areas(1, 4);
  expect_error([&] { attend(x, x, x, all, {.heads = 3, .kv_heads = 2, .head_dim = 2}); },
               {"attention", "3 heads", "2 KV heads"});
  expect_error([&] { attend(x, x, x, all, {.heads = 2, .kv_heads = 2, .head_dim = 2}); },
               {"attention", "[4, 6]", "2 and 2 heads of 2"});
  expect_error([&] { attend(x, x, make({5, 6}, 2), all, three_heads); }, {"attention", "[5, 6]"});
  expect_error(
      [&] {
        attend(x, x, make({4, 6}, 2, {}, DType::f32), all, three_heads);
      },
      {"attention", "f32"});
  expect_error([&] { attend(x, x, x, causal_areas(1, 5), three_heads); },
               {"attention", "[0, 5)", "4 and 4"});
  expect_error([&] { attend(x, x, x, {{2, 1, 0, 1}}, three_heads); }, {"attention", "[2, 1)"});
  const Tensor mine = x.labelled(tokens);
  expect_error([&] { attend(mine, mine, mine, all, three_heads); },
               {"attention", "rows", "share", "all_gather() k and v"});
  expect_error([&] { attend(mine, x.labelled(whole), x, all, three_heads); },
               {"attention", "k is"});
}

TEST_F(RowsOp, LayerNormHasTheGradientsOfFiniteDifferences) {
  const Weight w = make_weight("w", {7}, device, whole), b = make_weight("b", {7}, device, whole);
  expect_gradients([&](const Tensors& x) { return Tensors{layer_norm(x[0], *w, *b, 1e-3)}; },
                   {make({5, 7}, 1, tokens)}, {w.get(), b.get()});
  const Weight wide = make_weight("wide", {8}, device, whole);
  expect_error([&] { layer_norm(make({5, 7}, 1, tokens), *w, *wide); }, {"layer_norm", "wide"});
  expect_error(
      [&] {
        layer_norm(make({5, 7}, 1, dense(columns, rows, rows)), *w, *b);
      },
      {"layer_norm", "columns are cut"});
}

TEST_F(RowsOp, JoinHeadsPutsEachHeadsPartsTogetherAndSharesOne) {
  const Label heads = dense(columns, rows, rows), one = dense(replicated, rows, rows);
  const Tensor a = make({3, 4}, 1, heads), b = make({3, 6}, 2, heads), c = make({3, 3}, 3, one);
  const auto at = [](const Tensor& x, std::int64_t r, std::int64_t column) {
    return x.to_vector<double>()[std::size_t(r * x.columns() + column)];
  };
  const Tensor own = join_heads(a, b, 2, false), shared = join_heads(a, c, 2, true);
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t i = 0; i < 2; ++i) EXPECT_EQ(at(own, r, 5 * h + i), at(a, r, 2 * h + i));
      for (std::int64_t i = 0; i < 3; ++i) {
        EXPECT_EQ(at(own, r, 5 * h + 2 + i), at(b, r, 3 * h + i));
        EXPECT_EQ(at(shared, r, 5 * h + 2 + i), at(c, r, i));
      }
    }
  expect_gradients([](const Tensors& x) { return Tensors{join_heads(x[0], x[1], 2, false)}; },
                   {a, b});
  expect_gradients([](const Tensors& x) { return Tensors{join_heads(x[0], x[1], 2, true)}; },
                   {a, c});
  expect_error([&] { join_heads(a, b, 3, false); }, {"join_heads", "3 heads"});
}

// Of the Hugging Face library, version 5 (ROPE_INIT_FUNCTIONS), in f32.
TEST_F(RowsOp, RepeatedHeadsLieSideBySide) {
  const Tensor x = make({3, 10}, 1, tokens).columns(2, 8);
  const Tensor y = repeat_heads(x, 2, 3);
  ASSERT_EQ(y.shape(), (Shape{3, 18}));
  EXPECT_EQ(y.label(), x.label());
  for (std::int64_t h = 0; h < 2; ++h)
    for (std::int64_t copy = 0; copy < 3; ++copy)
      EXPECT_EQ(elements(y.columns((3 * h + copy) * 3, (3 * h + copy + 1) * 3)),
                elements(x.columns(3 * h, 3 * h + 3)));
  expect_gradients([](const Tensors& xs) { return Tensors{repeat_heads(xs[0], 2, 3)}; },
                   {make({3, 6}, 2, dense(columns, rows, rows))});
  expect_error([&] { repeat_heads(x, 4, 2); }, {"repeat_heads", "4 heads"});
}

TEST_F(RowsOp, StretchedFrequenciesAreThoseOfOtherPrograms) {
  using Kind = RopeScaling::Kind;
  struct Case {
    RopeScaling scaling;
    double base;
    std::int64_t positions;
    std::vector<double> want;
  };
  const Case cases[] = {{{Kind::linear, 4},
                         1e4,
                         256,
                         {0.25, 0.079056941, 0.025, 0.0079056947, 0.0024999999, 0.00079056947,
                          0.00025000001, 7.9056947e-05}},
                        {{Kind::dynamic_ntk, 4, 64},
                         1e4,
                         256,
                         {1.0, 0.21921247, 0.048054103, 0.010534058, 0.0023091969, 0.00050620473,
                          0.00011096639, 2.4325213e-05}},
                        {{Kind::yarn, 8, 64, 8, 1},
                         1e4,
                         512,
                         {1.0, 0.22399466, 0.041666664, 0.0039528473, 0.00125, 0.00039528473,
                          0.00012500001, 3.9528473e-05}},
                        {{Kind::llama3, 8, 256, 4, 1},
                         5e5,
                         2048,
                         {1.0, 0.19392276, 0.010538231, 0.00091158313, 0.00017677668, 3.4281024e-05,
                          6.6478697e-06, 1.2891732e-06}}};
  for (const Case& c : cases) {
    const std::vector<double> found = rope_frequencies(16, c.base, c.scaling, c.positions);
    ASSERT_EQ(found.size(), c.want.size());
    for (std::size_t i = 0; i < found.size(); ++i)
      EXPECT_NEAR(found[i], c.want[i], 1e-6 * c.want[i]) << int(c.scaling.kind) << ' ' << i;
  }
}

TEST_F(AttentionOp, ValuesNarrowerThanKeysAreAsThoseThatZerosWiden) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const std::int64_t narrow : {3, 40}) {
      const std::int64_t n = 70, heads = 4, kv_heads = 2, wide = 48;
      const AttentionShape shape{heads, kv_heads, wide, 0.3, narrow};
      const Tensor q = make({n, heads * wide}, 1, {}, type),
                   k = make({n, kv_heads * wide}, 2, {}, type),
                   v = make({n, kv_heads * narrow}, 3, {}, type),
                   dy = make({n, heads * narrow}, 4, {}, type);
      const auto widened = [&](const Tensor& x) {
        const std::int64_t count = x.columns() / narrow;
        Tensor y = Tensor::zeros({n, count * wide}, type, device);
        for (std::int64_t h = 0; h < count; ++h)
          backend(y).copy(y.columns(h * wide, h * wide + narrow),
                          x.columns(h * narrow, (h + 1) * narrow));
        return y;
      };
      const auto run = [&](const AttentionShape& s, const Tensor& values, const Tensor& dys) {
        Tape tape;
        const Tensor in[] = {tape.watch(q), tape.watch(k), tape.watch(values)};
        Tensor y;
        {
          const Tape::Recording on(&tape);
          y = attention(in[0], in[1], in[2], within_window(causal_areas(2, n / 2), 20), s);
        }
        const Tensor ys[] = {y}, of_ys[] = {dys};
        tape.backward(ys, of_ys);
        return Tensors{y, tape.gradient(in[0]), tape.gradient(in[1]), tape.gradient(in[2])};
      };
      const Tensors found = run(shape, v, dy);
      const Tensors want = run({heads, kv_heads, wide, 0.3}, widened(v), widened(dy));
      const double error = type == DType::f64 ? 1e-12 : type == DType::f32 ? 1e-5 : 2e-2;
      for (std::size_t i = 0; i < 4; ++i) {
        const auto a = elements(i == 0 || i == 3 ? widened(found[i]) : found[i]);
        const auto b = elements(want[i]);
        ASSERT_EQ(a.size(), b.size());
        double apart = 0;
        for (std::size_t e = 0; e < a.size(); ++e)
          apart = std::max(apart, std::abs(a[e] - b[e]) / std::max(1.0, std::abs(b[e])));
        EXPECT_LT(apart, error) << name(type) << " values of " << narrow << ", tensor " << i;
      }
    }
}

TEST_F(AttentionOp, AWindowLeavesEachQueryItsLastKeys) {
  for (const std::int64_t window : {1, 3, 6, 7, 100}) {
    std::vector<Area> areas = causal_areas(2, 6);
    areas.push_back({12, 15, 2, 9, Area::Kind::causal});  // queries after keys of their own
    std::vector<std::vector<int>> seen(15, std::vector<int>(12)), want = seen;
    for (const Area& a : within_window(areas, window))
      for (std::int64_t q = a.q_begin; q < a.q_end; ++q)
        for (std::int64_t k = a.k_begin; k < a.k_end; ++k) {
          const bool is_late = a.q_end - q <= a.k_end - k;
          const bool is_early = a.kind == Area::Kind::causal || k - a.k_begin >= q - a.q_begin;
          seen[std::size_t(q)][std::size_t(k)] += is_late && is_early;
        }
    for (std::int64_t q = 0; q < 15; ++q)
      for (std::int64_t k = 0; k < 12; ++k) {
        const std::int64_t first = q < 12 ? q / 6 * 6 : 2, last = q < 12 ? q : q - 6;
        want[std::size_t(q)][std::size_t(k)] = k >= std::max(first, last - window + 1) && k <= last;
      }
    EXPECT_EQ(seen, want) << window;
  }
  const std::vector<Area> full{{0, 2, 0, 2, Area::Kind::full}};
  expect_error([&] { within_window(full, 2); }, {"window", "not causal"});
  expect_error([&] { within_window(full, 0); }, {"a window of 0"});
}

}  // namespace
}  // namespace pf
