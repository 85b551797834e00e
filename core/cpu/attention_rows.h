// Loops of attention over the rows of one block of scores, compiled once for each instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/cpu/processor.h"
#include "core/dtype.h"

namespace pf {

// Row r of a block sees its columns from left to right that are also on the diagonals from lower +
// r to upper + r; ends are not included.
struct Band {
  std::int64_t left, right, lower, upper;

  std::int64_t first(std::int64_t row, std::int64_t columns) const {
    return std::clamp<std::int64_t>(std::max(left, lower + row), 0, columns);
  }
  std::int64_t last(std::int64_t row, std::int64_t columns) const {
    return std::clamp<std::int64_t>(std::min(right, upper + row), 0, columns);
  }
};

template <class T>
struct AttentionRows {
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using i64 = std::int64_t;

  // One step of a softmax over several blocks (Milakov and Gimelshein 2018). scores and p
  // [rows, columns], with one pitch; p is exp(scale * scores - top), zero where nothing is seen.
  // top and sum [rows] are of the blocks so far; y [rows, dim] is scaled to the new top.
  struct Softmax {
    const A* scores;
    T* p;
    i64 pitch, rows, columns;
    Band band;
    A scale;
    A *top, *sum, *y;
    i64 dim;
  };
  void (*softmax)(const Softmax& block);

  // Rows are keys, columns are queries: p = exp(scale * scores - lse) and
  // dscores = scale * p * (dp - delta), zero where nothing is seen. lse and delta [columns].
  struct Undo {
    const A *scores, *dp;
    T *p, *dscores;
    i64 pitch, rows, columns;
    Band band;
    A scale;
    const A *lse, *delta;
  };
  void (*undo)(const Undo& block);

  // y [rows, dim] = x / divisor [rows], 0 where that is 0.
  void (*divide)(T* y, i64 y_pitch, const A* x, const A* divisor, i64 rows, i64 dim);
  // sums[r] = a[r] . b[r]
  void (*dots)(A* sums, const T* a, i64 a_pitch, const T* b, i64 b_pitch, i64 rows, i64 dim);
  // y = the sum of `count` x, which are `step` elements apart.
  void (*add)(T* y, const A* x, i64 count, i64 step, i64 size);
};

template <class T>
const AttentionRows<T>& attention_rows(Isa isa);

namespace base {
template <class T>
const AttentionRows<T>& attention_rows();
}
namespace v3 {
template <class T>
const AttentionRows<T>& attention_rows();
}
namespace v4 {
template <class T>
const AttentionRows<T>& attention_rows();
}

}  // namespace pf
