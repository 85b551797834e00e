// A product with an adapted weight on several ranks is what it is on one.
#include "core/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "core/ops/linear.h"
#include "parallel/gradients.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

using enum Spread;

constexpr std::int64_t tokens = 12, width = 8, outputs = 6, rank = 2, experts_count = 4;

// A product on some mesh: how tokens come and how the weight lies.
struct Case {
  const char* name;
  Layout layout;
  Label x, w;
};

const Case cases[] = {
    {"outputs cut over kv",
     {.kv = 2, .edp = 2},
     dense(replicated, rows, rows),
     dense(rows, replicated, replicated)},
    {"inputs cut over kv",
     {.kv = 2, .edp = 2},
     dense(columns, rows, rows),
     dense(columns, replicated, replicated)},
    {"outputs cut over kv, the same on share",
     {.share = 2, .kv = 2, .edp = 4},
     dense(replicated, rows, rows),
     dense(rows, replicated, replicated).with({Axis::share}, replicated)},
    {"tokens cut over tp",
     {.share = 2, .kv = 2, .edp = 4},
     dense(rows, rows, rows),
     dense(replicated, replicated, replicated)},
    {"tokens cut over cp and dp, inputs over kv",
     {.kv = 2, .cp = 2, .dp = 2, .edp = 8},
     dense(columns, rows, rows),
     dense(columns, replicated, replicated)},
    {"experts",
     {.dp = 2, .ep = 2},
     expert(replicated, experts, rows),
     expert(rows, experts, replicated)},
    {"experts' outputs",
     {.dp = 4, .etp = 2, .ep = 2},
     expert(replicated, experts, rows),
     expert(rows, experts, replicated)},
    {"experts' inputs",
     {.dp = 4, .etp = 2, .edp = 2},
     expert(columns, experts, rows),
     expert(columns, experts, replicated)},
};

// Of a whole [.., rows, columns] tensor, what a rank holds that is cut so; `label` of an activation
// whose rows are sorted by expert.
struct Cut {
  std::int64_t begin = 0, end = 0;
};
Cut cut(std::int64_t size, const Mesh& mesh, const Label& label, Spread spread) {
  Axes set;
  for (const Axis a : axes_of(label.view))
    if (label[a] == spread) set.push_back(a);
  const std::int64_t part = size / mesh.size(set), at = mesh.coordinate(set);
  return {at * part, (at + 1) * part};
}

// The gradients of A and B, whole: each rank's block of them is compared.
struct Outcome {
  std::vector<double> a, b;
  double norm = 0;
};

// Rows of x: tokens, or for each expert as many; a rank's are those of its experts, of which rows
// are cut again.
std::vector<std::int64_t> rows_of(const Case& c, const Mesh& mesh) {
  std::vector<std::int64_t> out;
  const bool is_grouped = c.w.view == View::expert;
  const Cut of_experts = is_grouped ? cut(experts_count, mesh, c.x, experts) : Cut{0, 1};
  const Cut of_rows = cut(tokens, mesh, c.x, rows);
  for (std::int64_t e = of_experts.begin; e < of_experts.end; ++e)
    for (std::int64_t r = of_rows.begin; r < of_rows.end; ++r) out.push_back(e * tokens + r);
  return out;
}

// Rows and columns of a whole matrix.
Tensor part_of(const Tensor& whole, const std::vector<std::int64_t>& rows_wanted, Cut of_columns,
               const Label& label) {
  const Tensor y =
      Tensor::empty({std::int64_t(rows_wanted.size()), of_columns.end - of_columns.begin},
                    whole.dtype(), whole.device(), label);
  for (std::size_t r = 0; r < rows_wanted.size(); ++r)
    backend(y).copy(
        y.rows(std::int64_t(r), std::int64_t(r) + 1),
        whole.rows(rows_wanted[r], rows_wanted[r] + 1).columns(of_columns.begin, of_columns.end));
  return y;
}

// What this rank's blocks of the gradients are.
Outcome run(const Case& c, const Mesh& mesh) {
  Device& device = mesh.device();
  const bool is_grouped = c.w.view == View::expert;
  const Shape whole = is_grouped ? Shape{experts_count, outputs, width} : Shape{outputs, width};
  Parameter w("w", whole, mesh.place("w", whole, c.w), c.w, Init::normal, 1);
  w.adapt(rank, 0.75);
  Parameter &a = w.adapter()->a, &b = w.adapter()->b;
  w.initialise(device, DType::f64, 1, 1);
  a.initialise(device, DType::f64, 1, 2);
  b.initialise(device, DType::f64, 1, 3);
  const std::span<const std::int64_t> begin(b.block().begin);
  backend(b.value()).normal(b.value(), {9, 9, 9}, 1, b.whole(),
                            begin.first(std::size_t(b.whole().dims())));
  b.changed();
  Pack pack("w", {&w});
  Gradients gradients(mesh, {{{&a, &b}}});
  gradients.clear();

  const std::int64_t all = is_grouped ? experts_count * tokens : tokens;
  const std::vector<std::int64_t> mine = rows_of(c, mesh);
  const Tensor x = part_of(random_tensor({all, width}, DType::f64, device, 4), mine,
                           cut(width, mesh, c.x, columns), c.x);
  Tape tape;
  std::vector<Tensor> ys;
  {
    const Tape::Recording on(&tape);
    const Tensor in = tape.watch(x);
    const std::int64_t groups = is_grouped ? w.shape()[0] : 1;
    const std::vector<std::int64_t> counts(std::size_t(groups), std::int64_t(mine.size()) / groups);
    ys = is_grouped ? grouped_linear({in, {}, counts}, pack) : linear(in, pack);
  }
  // Where y is a partial sum its gradient is the same on all ranks; where it is replicated, the
  // gradient is partial: the first has all of it.
  const Label y = ys[0].label();
  const Tensor dy = part_of(random_tensor({all, outputs}, DType::f64, device, 5), mine,
                            cut(outputs, mesh, y, columns), gradient_of(y));
  for (const Axis axis : axes_of(y.view))
    if (y[axis] == replicated && mesh.coordinate({axis}) > 0) backend(dy).fill(dy, 0);
  const Tensor dys[] = {dy};
  tape.backward(ys, dys);
  gradients.start(0);
  const double norm = gradients.finish();
  return {elements(a.gradient()), elements(b.gradient()), norm};
}

// The block of a whole tensor.
std::vector<double> block(const std::vector<double>& whole, const Parameter& p) {
  std::vector<double> out;
  const int dims = p.whole().dims();
  const std::int64_t first = dims == 3 ? p.block().begin[0] : 0,
                     count = dims == 3 ? p.shape()[0] : 1;
  for (std::int64_t e = first; e < first + count; ++e)
    for (std::int64_t r = 0; r < p.shape()[-2]; ++r)
      for (std::int64_t i = 0; i < p.shape()[-1]; ++i)
        out.push_back(whole[std::size_t(
            (e * p.whole()[-2] + p.block().begin[std::size_t(dims - 2)] + r) * p.whole()[-1] +
            p.block().begin[std::size_t(dims - 1)] + i)]);
  return out;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-12) << i;
}

TEST(AdapterOnRanks, GradientsAreThoseOfOneRank) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Outcome want;
    in_ranks(1, [&](const Mesh& mesh) { want = run(c, mesh); });
    EXPECT_GT(want.norm, 1);
    std::mutex mutex;
    in_ranks(c.layout, [&](const Mesh& mesh) {
      const Outcome got = run(c, mesh);
      const Shape whole =
          c.w.view == View::expert ? Shape{experts_count, outputs, width} : Shape{outputs, width};
      Parameter w("w", whole, mesh.place("w", whole, c.w), c.w);
      w.adapt(rank, 1);
      const std::lock_guard lock(mutex);
      expect_near(got.a, block(want.a, w.adapter()->a));
      expect_near(got.b, block(want.b, w.adapter()->b));
      EXPECT_NEAR(got.norm, want.norm, 1e-12 * want.norm);
    });
  }
}

// Each rank merges its own blocks.
TEST(AdapterOnRanks, TheMergedWeightIsThatOfOneRank) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const bool is_grouped = c.w.view == View::expert;
    const Shape whole = is_grouped ? Shape{experts_count, outputs, width} : Shape{outputs, width};
    const auto merge = [&](const Mesh& mesh, auto use) {
      Parameter w("w", whole, mesh.place("w", whole, c.w), c.w, Init::normal, 1);
      w.adapt(rank, 0.75);
      for (Parameter* p : {&w, &w.adapter()->a}) p->initialise(mesh.device(), DType::f64, 1, 1);
      Parameter& b = w.adapter()->b;
      b.initialise(mesh.device(), DType::f64, 1, 1);
      const std::span<const std::int64_t> begin(b.block().begin);
      backend(b.value()).normal(b.value(), {9, 9, 9}, 1, b.whole(),
                                begin.first(std::size_t(whole.dims())));
      w.merge();
      use(w);
    };
    std::vector<double> want;
    in_ranks(1, [&](const Mesh& mesh) {
      merge(mesh, [&](const Parameter& w) { want = elements(w.value()); });
    });
    std::mutex mutex;
    in_ranks(c.layout, [&](const Mesh& mesh) {
      merge(mesh, [&](const Parameter& w) {
        const std::lock_guard lock(mutex);
        expect_near(elements(w.value()), block(want, w));
      });
    });
  }
}

}  // namespace
}  // namespace pf
