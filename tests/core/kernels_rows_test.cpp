// Kernels of rows of the CPU against plain loops.
#include <gtest/gtest.h>

#include <cmath>

#include "core/backend.h"
#include "tests/core/kernels_reference.h"

namespace pf::test {
namespace {

TEST(Kernels, EmbeddingTakesRowsThatAreHereAndZerosElsewhere) {
  on_each_machine([](Machine& machine) {
    const Tensor w = machine.random({11, 45}, machine.sums(), 1);
    const Tensor ids = machine.integers({501}, 23, 2), y = machine.empty({501, 45}, machine.type);
    machine.backend().embedding(y, ids, w, 6);
    Table want = zeros(501, 45);
    const Table from = table(w), id = table(ids);
    for (std::int64_t r = 0; r < 501; ++r)
      for (std::int64_t c = 0; c < 45; ++c) {
        if (id[r] >= 6 && id[r] < 17) want(r, c) = from(std::int64_t(id[r]) - 6, c);
      }
    expect_close(y, want);
  });
}

TEST(Kernels, EmbeddingBackwardAddsRowsAndClearsWhatWasNotHit) {
  on_each_machine([](Machine& machine) {
    for (bool adds : {false, true}) {
      const Tensor dw = machine.random({11, 145}, machine.sums(), 1);
      const Tensor ids = machine.integers({301}, 23, 2),
                   dy = machine.random({301, 145}, machine.type, 3);
      Table want = adds ? table(dw) : zeros(11, 145);
      machine.backend().embedding_backward({dw, adds}, ids, dy, 6);
      const Table d = table(dy), id = table(ids);
      for (std::int64_t r = 0; r < 301; ++r)
        for (std::int64_t c = 0; c < 145; ++c)
          if (id[r] >= 6 && id[r] < 17) want(std::int64_t(id[r]) - 6, c) += d(r, c);
      expect_close(dw, want);
    }
  });
}

TEST(Kernels, RmsNormDividesGroupsOfColumnsByTheirRootMeanSquare) {
  on_each_machine([](Machine& machine) {
    for (std::int64_t groups : {1, 3}) {
      const std::int64_t rows = 129, width = 87, columns = groups * width;
      const Tensor x = machine.random({rows, columns}, machine.type, 1);
      const Tensor w = machine.random({width}, machine.sums(), 2),
                   scale = machine.empty({rows, groups}, machine.sums());
      const Tensor y = machine.empty({rows, columns}, machine.type);
      machine.backend().rms_norm(y, scale, x, w, 1e-2);
      const Tensor dy = machine.random({rows, columns}, machine.type, 3),
                   dx = machine.empty({rows, columns}, machine.type);
      const Tensor dw = machine.random({width}, machine.sums(), 4);
      const Tensor work = machine.bytes(machine.backend().rms_norm_workspace(x, w));
      Table want = table(x), want_scale = table(scale), want_dx = want, want_dw = table(dw);
      machine.backend().rms_norm_backward({dx}, {dw, true}, dy, x, scale, w, work);
      const Table v = table(x), weight = table(w), d = table(dy);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t g = 0; g < groups; ++g) {
          double squares = 0, dot = 0;
          for (std::int64_t c = 0; c < width; ++c) squares += std::pow(v(r, g * width + c), 2);
          const double s = want_scale(r, g) = 1 / std::sqrt(squares / double(width) + 1e-2);
          for (std::int64_t c = 0; c < width; ++c) {
            const std::int64_t at = g * width + c;
            want(r, at) = v(r, at) * s * weight[c];
            dot += d(r, at) * weight[c] * v(r, at) * s;
            want_dw[c] += d(r, at) * v(r, at) * s;
          }
          for (std::int64_t c = 0; c < width; ++c) {
            const std::int64_t at = g * width + c;
            want_dx(r, at) = s * (d(r, at) * weight[c] - v(r, at) * s * dot / double(width));
          }
        }
      expect_close(y, want);
      expect_close(scale, want_scale);
      expect_close(dx, want_dx);
      expect_close(dw, want_dw, machine.type == DType::f64 ? 1e-12 : 2e-5);
      machine.backend().rms_norm_backward({dx}, {}, dy, x, scale, w, {});
      expect_close(dx, want_dx);
    }
  });
}

TEST(Kernels, LayerNormCentresAndScalesRows) {
  on_each_machine([](Machine& machine) {
    const std::int64_t rows = 129, width = 87;
    const Tensor x = machine.random({rows, width}, machine.type, 1);
    const Tensor w = machine.random({width}, machine.sums(), 2),
                 b = machine.random({width}, machine.sums(), 5),
                 kept = Tensor::empty({rows, 2}, machine.sums(), machine.device);
    const Tensor y = machine.empty({rows, width}, machine.type);
    machine.backend().layer_norm(y, kept, x, w, b, 1e-2);
    const Tensor dy = machine.random({rows, width}, machine.type, 3),
                 dx = machine.empty({rows, width}, machine.type);
    const Tensor dw = machine.random({width}, machine.sums(), 4),
                 db = machine.random({width}, machine.sums(), 6);
    Table want = table(x), want_dx = want, want_dw = table(dw), want_db = zeros(1, width);
    machine.backend().layer_norm_backward(
        {dx}, {dw, true}, {db, false}, dy, x, kept, w,
        machine.bytes(machine.backend().layer_norm_workspace(x, w)));
    const Table v = table(x), weight = table(w), bias = table(b), d = table(dy);
    for (std::int64_t r = 0; r < rows; ++r) {
      double mean = 0, variance = 0, sum = 0, dot = 0;
      for (std::int64_t c = 0; c < width; ++c) mean += v(r, c) / double(width);
      for (std::int64_t c = 0; c < width; ++c)
        variance += std::pow(v(r, c) - mean, 2) / double(width);
      const double s = 1 / std::sqrt(variance + 1e-2);
      for (std::int64_t c = 0; c < width; ++c) {
        const double h = (v(r, c) - mean) * s, u = d(r, c) * weight[c];
        want(r, c) = h * weight[c] + bias[c];
        sum += u / double(width);
        dot += u * h / double(width);
        want_dw[c] += d(r, c) * h;
        want_db[c] += d(r, c);
      }
      for (std::int64_t c = 0; c < width; ++c)
        want_dx(r, c) = s * (d(r, c) * weight[c] - sum - (v(r, c) - mean) * s * dot);
    }
    expect_close(y, want);
    expect_close(dx, want_dx);
    expect_close(dw, want_dw, machine.type == DType::f64 ? 1e-12 : 2e-5);
    expect_close(db, want_db, machine.type == DType::f64 ? 1e-12 : 2e-5);
    machine.backend().layer_norm_backward({dx}, {}, {}, dy, x, kept, w, {});
    expect_close(dx, want_dx);
  });
}

TEST(Kernels, ARowIsAddedToEachRowAndItsGradientIsTheSumOfColumns) {
  on_each_machine([](Machine& machine) {
    const Tensor x = machine.random({131, 77}, machine.type, 1),
                 row = machine.random({77}, machine.sums(), 2),
                 y = machine.empty({131, 77}, machine.type),
                 drow = machine.random({77}, machine.sums(), 3);
    Table want = table(x), once = zeros(1, 77), twice = table(drow);
    machine.backend().add_row(y, x, row);
    machine.backend().add_row_backward({drow, true}, x);
    for (std::int64_t r = 0; r < 131; ++r)
      for (std::int64_t c = 0; c < 77; ++c) {
        once[c] += want(r, c);
        twice[c] += want(r, c);
        want(r, c) += table(row)[c];
      }
    const double error = machine.type == DType::f64 ? 1e-12 : 2e-5;
    expect_close(y, want);
    expect_close(drow, twice, error);
    machine.backend().add_row_backward({drow, false}, x);
    expect_close(drow, once, error);
  });
}

TEST(Kernels, RopeTurnsPairsAndTurnsThemBack) {
  on_each_machine([](Machine& machine) {
    for (std::int64_t head_dim : {6, 64}) {
      const std::int64_t heads = 3, half = head_dim / 2;
      const Tensor x = machine.random({91, heads * head_dim}, machine.type, 1);
      const Tensor y = machine.empty(x.shape(), machine.type),
                   back = machine.empty(x.shape(), machine.type);
      const Tensor table_of_angles = machine.empty({17, head_dim}, machine.sums());
      for (std::int64_t p = 0; p < 17; ++p)
        for (std::int64_t c = 0; c < half; ++c) {
          put(table_of_angles, p, c, std::cos(double(p) / double(c + 1)));
          put(table_of_angles, p, half + c, std::sin(double(p) / double(c + 1)));
        }
      const Tensor position = machine.integers({91}, 17, 2);
      machine.backend().rope(y, x, position, table_of_angles, false);
      machine.backend().rope(back, y, position, table_of_angles, true);
      const Table v = table(x), at = table(position);
      Table want = v;
      for (std::int64_t r = 0; r < 91; ++r)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t c = 0; c < half; ++c) {
            const double angle = at[r] / double(c + 1);
            const double a = v(r, h * head_dim + c), b = v(r, h * head_dim + half + c);
            want(r, h * head_dim + c) = a * std::cos(angle) - b * std::sin(angle);
            want(r, h * head_dim + half + c) = b * std::cos(angle) + a * std::sin(angle);
          }
      expect_close(y, want);
      expect_close(back, v, 2 * tolerance(machine.type));
      machine.backend().rope(y, y, position, table_of_angles, true);
      EXPECT_EQ(table(y).values, table(back).values);
    }
  });
}

TEST(Kernels, RowsAreTakenAndSummed) {
  on_each_machine([](Machine& machine) {
    const std::int64_t per = 3, rows = 55, columns = 149;
    const Tensor x = machine.random({rows, columns}, machine.type, 1);
    const Tensor order = machine.integers({rows * per}, rows * per, 2);
    const Tensor taken = machine.empty({rows * per, columns}, machine.type),
                 y = machine.empty({rows, columns}, machine.type);
    machine.backend().take_rows(taken, x, order, per);
    machine.backend().sum_rows({y}, taken, order, per);
    const Table v = table(x), at = table(order);
    Table want_taken = zeros(rows * per, columns), want = zeros(rows, columns);
    for (std::int64_t r = 0; r < rows * per; ++r)
      for (std::int64_t c = 0; c < columns; ++c) want_taken(r, c) = v(std::int64_t(at[r]) / per, c);
    for (std::int64_t r = 0; r < rows * per; ++r)
      for (std::int64_t c = 0; c < columns; ++c)
        want(r / per, c) += want_taken(std::int64_t(at[r]), c);
    EXPECT_EQ(table(taken).values, want_taken.values);
    expect_close(y, want);
  });
}

TEST(Kernels, GradientsOfRowsAreAddedToWhatIsThere) {
  on_each_machine([](Machine& machine) {
    const std::int64_t rows = 61, width = 87;
    const Tensor x = machine.random({rows, width}, machine.type, 1),
                 dy = machine.random({rows, width}, machine.type, 2);
    const Tensor w = machine.random({width}, machine.sums(), 3);
    const Tensor scale = machine.random({rows, 1}, machine.sums(), 4),
                 statistics = machine.random({rows, 2}, machine.sums(), 5),
                 place = machine.integers({rows * 2}, rows, 6);
    const auto expect_added = [&](auto run) {
      const Tensor alone = machine.empty({rows, width}, machine.type),
                   added = machine.random({rows, width}, machine.type, 7);
      Table want = table(added);
      run(GradientTarget{alone, false});
      run(GradientTarget{added, true});
      const Table of_alone = table(alone);
      for (std::size_t i = 0; i < want.values.size(); ++i) want.values[i] += of_alone.values[i];
      // Alone it is rounded before the sum.
      expect_close(added, want, machine.type == DType::bf16 ? 0.05 : tolerance(machine.type));
    };
    expect_added([&](const GradientTarget& dx) {
      machine.backend().rms_norm_backward(dx, {}, dy, x, scale, w, {});
    });
    expect_added([&](const GradientTarget& dx) {
      machine.backend().layer_norm_backward(dx, {}, {}, dy, x, statistics, w, {});
    });
    expect_added([&](const GradientTarget& dx) { machine.backend().sum_rows(dx, dy, place, 2); });
  });
}

TEST(Kernels, WeightGradientsOfNormsAreTheSameEachTime) {
  Machine machine(DType::bf16, 3);
  const Tensor x = machine.random({1001, 128}, DType::bf16, 1),
               dy = machine.random({1001, 128}, DType::bf16, 2);
  const Tensor w = machine.random({128}, DType::f32, 3),
               scale = machine.empty({1001, 1}, DType::f32);
  const Tensor y = machine.empty(x.shape(), DType::bf16),
               work = machine.bytes(machine.backend().rms_norm_workspace(x, w));
  machine.backend().rms_norm(y, scale, x, w, 1e-5);
  const Tensor first = machine.empty({128}, DType::f32), again = machine.empty({128}, DType::f32);
  machine.backend().rms_norm_backward({y}, {first, false}, dy, x, scale, w, work);
  for (int i = 0; i < 20; ++i) {
    machine.backend().rms_norm_backward({y}, {again, false}, dy, x, scale, w, work);
    ASSERT_EQ(table(first).values, table(again).values);
  }
}

}  // namespace
}  // namespace pf::test
