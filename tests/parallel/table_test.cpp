#include "parallel/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "tests/parallel/matrix.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;

// Uneven counts, some of them zero: of the i-th rank; and from rank i to rank j.
std::int64_t count_of(int i) {
  return (2 * i + 3) % 5;
}
std::int64_t count_between(int i, int j) {
  return (1 + i * 3 + j * j) % 4;
}
Rows counts(int ranks) {
  Rows out;
  for (int i = 0; i < ranks; ++i) out.push_back(count_of(i));
  return out;
}
std::int64_t begin_of(int i) {
  const Rows rows = counts(i);
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}
Exchange exchange(int ranks, int self) {
  Exchange out;
  for (int i = 0; i < ranks; ++i) {
    out.sent.push_back(count_between(self, i));
    out.received.push_back(count_between(i, self));
  }
  return out;
}

constexpr std::int64_t width = 24;  // a multiple of every group's size

// One row of the table: what x is, the call, and what one rank must get from the whole group's xs.
struct Entry {
  std::string name, op;
  Spread from, to;
  std::function<Shape(int ranks, int self)> shape;
  std::function<Tensor(const Tensor& x, const Mesh& mesh, const Axes& set)> call;
  std::function<Matrix(const Matrices& xs, int self)> want;

  friend std::ostream& operator<<(std::ostream& out, const Entry& entry) {
    return out << entry.name;
  }
};

Shape square(int, int) {
  return {width, width};
}

std::vector<Entry> entries() {
  const auto own = [](const Matrices& xs, int self) { return xs[std::size_t(self)]; };
  const auto part = [](const Matrices& xs) { return width / std::int64_t(xs.size()); };
  const auto uneven_own = [](int, int self) { return Shape{count_of(self), width}; };
  const auto uneven_all = [](int ranks, int) { return Shape{begin_of(ranks), width}; };
  const auto all = [](const Matrices& xs, int) { return stacked(xs); };
  const auto exchanged_shape = [](int ranks, int self) {
    const Rows sent = exchange(ranks, self).sent;
    return Shape{std::accumulate(sent.begin(), sent.end(), std::int64_t{0}), width};
  };
  const auto exchanged = [](const Matrices& xs, int self) {
    Matrices parts;
    for (int i = 0; i < int(xs.size()); ++i) {
      std::int64_t begin = 0;
      for (int j = 0; j < self; ++j) begin += count_between(i, j);
      parts.push_back(rows_of(xs[std::size_t(i)], begin, begin + count_between(i, self)));
    }
    return stacked(parts);
  };
  const auto own_uneven_rows = [](const Matrix& x, int self) {
    return rows_of(x, begin_of(self), begin_of(self + 1));
  };
  return {
      {"replicate", "replicate", invariant, replicated, square, replicate, own},
      {"all_reduce", "all_reduce", partial, invariant, square, all_reduce,
       [](const Matrices& xs, int) { return sum(xs); }},
      {"all_reduce_large", "all_reduce", partial, invariant,
       [](int, int) {
         return Shape{150, width};
       },
       all_reduce, [](const Matrices& xs, int) { return sum(xs); }},
      {"all_gather", "all_gather", rows, replicated, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) { return all_gather(x, mesh, set); },
       all},
      {"all_gather_uneven", "all_gather", rows, replicated, uneven_own,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return all_gather(x, mesh, set, counts(mesh.size(set)));
       },
       all},
      {"all_gather_invariant", "all_gather_invariant", rows, invariant, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return all_gather_invariant(x, mesh, set);
       },
       all},
      {"all_gather_invariant_uneven", "all_gather_invariant", rows, invariant, uneven_own,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return all_gather_invariant(x, mesh, set, counts(mesh.size(set)));
       },
       all},
      {"reduce_scatter", "reduce_scatter", partial, rows, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return reduce_scatter(x, mesh, set);
       },
       [part](const Matrices& xs, int self) {
         return rows_of(sum(xs), self * part(xs), (self + 1) * part(xs));
       }},
      {"reduce_scatter_uneven", "reduce_scatter", partial, rows, uneven_all,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return reduce_scatter(x, mesh, set, counts(mesh.size(set)));
       },
       [own_uneven_rows](const Matrices& xs, int self) { return own_uneven_rows(sum(xs), self); }},
      {"slice", "slice", invariant, rows, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) { return slice(x, mesh, set); },
       [part](const Matrices& xs, int self) {
         return rows_of(xs[0], self * part(xs), (self + 1) * part(xs));
       }},
      {"slice_uneven", "slice", invariant, rows, uneven_all,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return slice(x, mesh, set, counts(mesh.size(set)));
       },
       [own_uneven_rows](const Matrices& xs, int self) { return own_uneven_rows(xs[0], self); }},
      {"take_rows", "take", replicated, rows, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return take(x, mesh, set, mesh.index(set, rows), rows);
       },
       [part](const Matrices& xs, int self) {
         return rows_of(xs[0], self * part(xs), (self + 1) * part(xs));
       }},
      {"take_columns", "take", replicated, columns, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return take(x, mesh, set, mesh.index(set, columns), columns);
       },
       [part](const Matrices& xs, int self) {
         return columns_of(xs[0], self * part(xs), (self + 1) * part(xs));
       }},
      {"all_gather_in_halves", "all_gather", rows, replicated, uneven_own,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return start_all_gather(x, mesh, set, counts(mesh.size(set))).arrive();
       },
       all},
      {"all_to_all", "all_to_all", rows, experts, exchanged_shape,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return all_to_all(x, mesh, set, exchange(mesh.size(set), mesh.coordinate(set)), rows,
                           experts);
       },
       exchanged},
      {"all_to_all_in_halves", "all_to_all", rows, experts, exchanged_shape,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) {
         return start_all_to_all(x, mesh, set, exchange(mesh.size(set), mesh.coordinate(set)), rows,
                                 experts)
             .arrive();
       },
       exchanged},
      {"columns_for_rows", "columns_for_rows", rows, columns, square, columns_for_rows,
       [part](const Matrices& xs, int self) {
         return columns_of(stacked(xs), self * part(xs), (self + 1) * part(xs));
       }},
      {"rows_for_columns", "rows_for_columns", columns, rows, square, rows_for_columns,
       [part](const Matrices& xs, int self) {
         return rows_of(side_by_side(xs), self * part(xs), (self + 1) * part(xs));
       }},
      {"shift", "shift", rows, others, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) { return shift(x, mesh, set, 1); },
       [](const Matrices& xs, int self) {
         return xs[(std::size_t(self) + xs.size() - 1) % xs.size()];
       }},
      {"shift_back", "shift", others, rows, square,
       [](const Tensor& x, const Mesh& mesh, const Axes& set) { return shift(x, mesh, set, -3); },
       [](const Matrices& xs, int self) { return xs[(std::size_t(self) + 3) % xs.size()]; }},
      {"once", "once", invariant, partial, square, once,
       [](const Matrices& xs, int self) { return self == 0 ? xs[0] : zeros(width, width); }},
      {"total", "total", rows, partial,
       [](int, int) {
         return Shape{1, 1};
       },
       [](const Tensor& x, const Mesh&, const Axes&) { return total(x); }, own},
  };
}

struct Site {
  std::string name;
  Layout layout;
  Axes set;
};

std::vector<Site> sites() {
  const Layout cube{.share = 2, .kv = 1, .cp = 2, .dp = 2, .etp = 2, .ep = 2, .edp = 2};
  std::vector<Site> out;
  for (int n : {1, 2, 3, 4})
    out.push_back({"dp_of_" + std::to_string(n), {.dp = n, .edp = n}, axes::dp});
  out.push_back({"cp_beside_dp", {.cp = 2, .dp = 3, .ep = 3, .edp = 2}, axes::cp});
  out.push_back({"dp_beside_cp", {.cp = 2, .dp = 3, .ep = 3, .edp = 2}, axes::dp});
  out.push_back({"tp_and_dp", cube, axes::tp * axes::dp});
  out.push_back({"tp_cp_and_dp", cube, axes::tp * axes::cp * axes::dp});
  out.push_back({"ep", cube, axes::ep});
  out.push_back({"etp_and_edp", cube, axes::etp * axes::edp});
  return out;
}

// All axes cut rows, but those of `set`.
Label label_of(const Axes& set, Spread spread) {
  const bool is_dense = std::ranges::count(axes_of(View::dense), set[0]) > 0;
  const Label label = is_dense ? dense(rows, rows, rows) : expert(rows, rows, rows);
  return label.with(set, spread);
}

// Equal on the ranks of the group where the label says so.
unsigned seed_of(const Mesh& mesh, const Label& label, const Axes& set, unsigned salt) {
  const Spread spread = label[set[0]];
  const bool is_alike = spread == invariant || spread == replicated;
  return 1000 * salt + unsigned(is_alike ? mesh.group(set)[0] : 100 + mesh.rank());
}

// What a rank adds to the product of a tensor and its gradient, each taken as a whole: everything,
// but what is one value on several ranks counts once.
double pairing(const Matrix& a, const Matrix& b, const Label& label, const Mesh& mesh) {
  for (const Axis axis : axes_of(label.view))
    if (label[axis] == invariant && mesh.coordinate({axis}) > 0) return 0;
  return std::inner_product(a.values.begin(), a.values.end(), b.values.begin(), 0.0);
}

struct Found {
  Matrix x, y;
  std::vector<int> group;
  double forward = 0, backward = 0;
};

// Runs an entry forward and backward on all ranks of a site.
std::vector<Found> run(const Entry& entry, const Site& site) {
  std::vector<Found> out(std::size_t(site.layout.ranks()));
  in_ranks(site.layout, [&](const Mesh& mesh) {
    Found& found = out[std::size_t(mesh.rank())];
    const Label label = label_of(site.set, entry.from);
    const Shape shape = entry.shape(mesh.size(site.set), mesh.coordinate(site.set));
    found.group = mesh.group(site.set);
    found.x = random(shape[0], shape[1], seed_of(mesh, label, site.set, 1));
    Tape tape;
    Tensor x = tape.watch(tensor(found.x, mesh.device(), label)), y;
    {
      const Tape::Recording recording(&tape);
      y = entry.call(x, mesh, site.set);
    }
    for (const Axis a : site.set) EXPECT_EQ(y.label()[a], entry.to);
    EXPECT_TRUE(mesh.size(site.set) > 1 || y.is_same_view(x));
    found.y = matrix(y);
    const Label dual_label = gradient_of(y.label());
    const Matrix dy = random(y.rows(), y.columns(), seed_of(mesh, dual_label, site.set, 2));
    const Tensor ys[] = {y}, dys[] = {tensor(dy, mesh.device(), dual_label)};
    tape.backward(ys, dys);
    const Matrix dx = matrix(tape.gradient(x));
    found.forward = pairing(found.y, dy, y.label(), mesh);
    found.backward = pairing(found.x, dx, label, mesh);
  });
  return out;
}

class Table : public testing::TestWithParam<Entry> {};
class Moves : public testing::TestWithParam<Entry> {};

TEST_P(Table, GivesTheNumbersOfAPlainProgramForAllRanks) {
  for (const Site& site : sites()) {
    const std::vector<Found> found = run(GetParam(), site);
    for (int r = 0; r < int(found.size()); ++r) {
      const std::vector<int>& group = found[std::size_t(r)].group;
      Matrices xs;
      for (int member : group) xs.push_back(found[std::size_t(member)].x);
      const auto self = int(std::ranges::find(group, r) - group.begin());
      EXPECT_EQ(found[std::size_t(r)].y, GetParam().want(xs, self)) << site.name << ", rank " << r;
    }
  }
}

TEST_P(Table, HasABackwardThatIsTheTranspose) {
  for (const Site& site : sites()) {
    double forward = 0, backward = 0;
    for (const Found& found : run(GetParam(), site)) {
      forward += found.forward;
      backward += found.backward;
    }
    EXPECT_EQ(forward, backward) << site.name;
    EXPECT_NE(forward, 0) << site.name;
  }
}

TEST_P(Moves, RefusesAnyOtherSpreadOnOneRankToo) {
  const Entry& entry = GetParam();
  in_ranks(1, [&](const Mesh& mesh) {
    for (const Axes& set : {axes::dp, axes::ep}) {
      for (const Spread wrong : {invariant, replicated, partial, rows, columns, experts, others}) {
        const bool is_way_back = entry.op == "shift" && (wrong == rows || wrong == others);
        if (wrong == entry.from || is_way_back) continue;
        const Shape shape = entry.shape(1, 0);
        const Tensor x = tensor(zeros(shape[0], shape[1]), mesh.device(), label_of(set, wrong));
        try {
          entry.call(x, mesh, set);
          ADD_FAILURE() << entry.name << " took " << name(wrong);
        } catch (const Error& error) {
          const std::string text = error.what();
          const std::string start = entry.op + ": wants ";
          EXPECT_EQ(text.substr(0, start.size()), start);
          EXPECT_NE(text.find(std::string(" on ") + name(set) + ", found " + name(wrong)),
                    std::string::npos)
              << text;
          EXPECT_TRUE(text.ends_with("() it first") || text.ends_with("a scalar") ||
                      text.ends_with("too early"))
              << text;
        }
      }
    }
  });
}

TEST_P(Moves, RefusesAnAxisOfTheOtherView) {
  in_ranks(1, [&](const Mesh& mesh) {
    const Shape shape = GetParam().shape(1, 0);
    const Tensor x =
        tensor(zeros(shape[0], shape[1]), mesh.device(), label_of(axes::dp, GetParam().from));
    EXPECT_THROW(GetParam().call(x, mesh, axes::ep), Error);
  });
}

TEST_P(Table, HasTheSameShapesAndTrafficWithoutDataAndWithoutRanks) {
  for (const Site& site : sites()) {
    in_ranks(site.layout, [&](const Mesh& mesh) {
      FakeCommunicator fake(mesh.rank(), mesh.size());
      Device device(make_meta_backend(make_cpu_backend(1)));
      const Mesh planned(fake, device, site.layout, mesh.group(axes_of(View::dense)));
      const Label label = label_of(site.set, GetParam().from);
      const Shape shape = GetParam().shape(mesh.size(site.set), mesh.coordinate(site.set));
      const Tensor x = Tensor::zeros(shape, DType::f64, mesh.device(), label);
      const Tensor y = GetParam().call(x, mesh, site.set);
      const Tensor outline =
          GetParam().call(Tensor::empty(shape, DType::f64, device, label), planned, site.set);
      EXPECT_EQ(outline.text(), y.text());
      EXPECT_EQ(fake.traffic(), mesh.communicator().traffic());
    });
  }
}

// All but total(), which takes every spread and no axes.
std::vector<Entry> moves() {
  std::vector<Entry> all = entries();
  std::erase_if(all, [](const Entry& entry) { return entry.op == "total"; });
  return all;
}

INSTANTIATE_TEST_SUITE_P(, Table, testing::ValuesIn(entries()),
                         [](const auto& entry) { return entry.param.name; });
INSTANTIATE_TEST_SUITE_P(, Moves, testing::ValuesIn(moves()),
                         [](const auto& entry) { return entry.param.name; });

TEST(Collectives, TakesTensorsWithAPitch) {
  in_ranks(2, [](const Mesh& mesh) {
    const Matrix whole = random(4, 10, 3 + unsigned(mesh.rank()));
    const auto part = [&](Spread on_dp) {
      return tensor(whole, mesh.device(), dense(rows, rows, on_dp)).columns(2, 8);
    };
    const Matrix other = columns_of(random(4, 10, 4 - unsigned(mesh.rank())), 2, 8);
    const Matrix own = columns_of(whole, 2, 8);
    const Matrices both{mesh.rank() ? other : own, mesh.rank() ? own : other};
    EXPECT_EQ(matrix(all_reduce(part(partial), mesh, axes::dp)), sum(both));
    EXPECT_EQ(matrix(all_gather(part(rows), mesh, axes::dp)), stacked(both));
    EXPECT_EQ(matrix(shift(part(rows), mesh, axes::dp, 1)), other);
    EXPECT_EQ(matrix(rows_for_columns(part(columns), mesh, axes::dp)),
              rows_of(side_by_side(both), 2 * mesh.rank(), 2 * mesh.rank() + 2));
    const Tensor ids = Tensor::empty({2, 4}, DType::i32, mesh.device(), dense(rows, rows, rows));
    std::iota(ids.data<std::int32_t>(), ids.data<std::int32_t>() + 8, 10 * mesh.rank());
    const Tensor all = all_gather(ids.columns(1, 3), mesh, axes::dp);
    EXPECT_EQ(all.to_vector<std::int32_t>(),
              (std::vector<std::int32_t>{1, 2, 5, 6, 11, 12, 15, 16}));
  });
}

TEST(Constants, ServeAsInvariantAndStayConstant) {
  in_ranks(2, [](const Mesh& mesh) {
    const Tensor x = Tensor::zeros({4}, DType::i32, mesh.device());
    const Tensor part = slice(x, mesh, axes::dp);
    EXPECT_TRUE(part.label().constant);
    EXPECT_EQ(part.label()[Axis::dp], rows);
    const Tensor back = all_gather_invariant(part, mesh, axes::dp);
    EXPECT_EQ(back.label(), x.label());
    Tape tape;
    const Tape::Recording recording(&tape);
    EXPECT_EQ(all_gather(slice(x, mesh, axes::dp), mesh, axes::dp).slot().index, -1);
    EXPECT_EQ(tape.size(), 0u);
  });
}

TEST(Cross, ChangesTheViewBothWaysAndMovesNothing) {
  in_ranks(Layout{.cp = 2, .dp = 2, .ep = 4}, [](const Mesh& mesh) {
    Tape tape;
    const Tensor x = tape.watch(tensor(random(3, 2, 1), mesh.device(), dense(rows, rows, rows)));
    Tensor y;
    {
      const Tape::Recording recording(&tape);
      y = cross(x, mesh);
    }
    EXPECT_EQ(y.label(), expert(rows, rows, rows));
    EXPECT_TRUE(y.is_same_view(x));
    const Tensor ys[] = {y}, dys[] = {tensor(random(3, 2, 2), mesh.device(), y.label())};
    tape.backward(ys, dys);
    EXPECT_TRUE(tape.gradient(x).is_same_view(dys[0]));
    const Tensor mixed = tensor(zeros(2, 2), mesh.device(), dense(rows, partial, rows));
    EXPECT_THROW(cross(mixed, mesh), Error);
  });
}

TEST(Collectives, RefusesRowsThatAreNotThere) {
  in_ranks(2, [](const Mesh& mesh) {
    const auto x = [&](Spread on_dp) {
      return tensor(zeros(3, 2), mesh.device(), dense(rows, rows, on_dp));
    };
    EXPECT_THROW(all_gather(x(rows), mesh, axes::dp, {2, 2}), Error);
    EXPECT_THROW(all_gather(x(rows), mesh, axes::dp, {3, 3, 3}), Error);
    EXPECT_THROW(reduce_scatter(x(partial), mesh, axes::dp), Error);
    EXPECT_THROW(reduce_scatter(x(partial), mesh, axes::dp, {4, -1}), Error);
    EXPECT_THROW(slice(x(invariant), mesh, axes::dp), Error);
    EXPECT_THROW(slice(x(invariant), mesh, axes::dp, {1, 1}), Error);
    EXPECT_THROW(take(x(replicated), mesh, axes::dp, mesh.index(axes::dp, rows), rows), Error);
    EXPECT_THROW(take(x(replicated), mesh, axes::dp, mesh.index(axes::cp, rows), columns), Error);
    EXPECT_THROW(all_to_all(x(rows), mesh, axes::dp, {{1, 1}, {1, 1}}, rows, experts), Error);
    EXPECT_THROW(all_to_all(x(rows), mesh, axes::dp, {{3}, {3}}, rows, experts), Error);
    EXPECT_THROW(columns_for_rows(tensor(zeros(2, 3), mesh.device(), dense(rows, rows, rows)), mesh,
                                  axes::dp),
                 Error);
  });
}

TEST(Collectives, CountsThatRanksSeeDifferentlyAreAnError) {
  EXPECT_THROW(in_ranks(2,
                        [](const Mesh& mesh) {
                          const Tensor x =
                              tensor(zeros(4, 2), mesh.device(), dense(rows, rows, rows));
                          const Exchange mine{{2, 2}, {2, 2}}, other{{1, 3}, {1, 3}};
                          all_to_all(x, mesh, axes::dp, mesh.rank() ? other : mine, rows, experts);
                        }),
               Error);
}

TEST(Collectives, SavesNoTensorWithoutATape) {
  in_ranks(2, [](const Mesh& mesh) {
    Tape tape;
    const Tensor x = tape.watch(tensor(zeros(4, 2), mesh.device(), dense(rows, rows, rows)));
    EXPECT_EQ(all_gather(x, mesh, axes::dp).slot().index, -1);
    EXPECT_EQ(total(tape.watch(Tensor::scalar(1, DType::f64, mesh.device()))).slot().index, -1);
    EXPECT_EQ(tape.size(), 0u);
  });
}

}  // namespace
}  // namespace pf
