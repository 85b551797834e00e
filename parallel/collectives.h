// How rows and sums travel within one group: the data movement of the table, without spreads or
// tape.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "parallel/mesh.h"

namespace pf {

// One call: its name in messages, the group, and the label of what it makes.
struct Move {
  const char* kind = "";
  const Mesh& mesh;
  const Axes& set;
  Label label;
  bool is_uneven = false;  // ranks hold different numbers of rows
  // Of the group, so many consecutive ranks make the call among themselves; 0: all.
  int neighbours = 0;

  int ranks() const { return neighbours > 0 ? neighbours : mesh.size(set); }
  int self() const { return mesh.coordinate(set) % ranks(); }
  std::span<const int> group() const;  // world ranks
};

// What a call makes, on its way: whoever started it may work until he asks for it.
class Started {
 public:
  Started() = default;
  // Of `y`, which is here.
  explicit Started(const Tensor& y) : y_(y) {}
  // `y` is here when `pending` is; or when `parts` are, the sum of which it is. `from` is sent.
  Started(const Tensor& y, const Tensor& from, std::unique_ptr<Pending> pending,
          std::vector<Tensor> parts = {});
  bool is_empty() const { return !y_; }
  Tensor wait();  // once

 private:
  Tensor y_, from_;
  std::vector<Tensor> parts_;
  std::unique_ptr<Pending> pending_;  // last: withdrawn before the memory goes
};

// Rows are of the first dim; rows[i] are the i-th rank's. All ranks of the group call the same.
// Sums are made in rank order, those of bf16 in f32 and rounded once: the same bits on every rank.
using RowCounts = std::span<const std::int64_t>;
Started start_gather_rows(const Tensor& x, RowCounts rows, const Move& move);
Tensor gather_rows(const Tensor& x, RowCounts rows, const Move& move);
Tensor sum_of_all(const Tensor& x, const Move& move);
Started start_rows_of_sum(const Tensor& x, RowCounts rows, const Move& move);
Tensor rows_of_sum(const Tensor& x, RowCounts rows, const Move& move);
Tensor largest_of_all(const Tensor& x, const Move& move);
// sent[i] rows go to the i-th rank, received[i] come from it.
Started start_swap_rows(const Tensor& x, RowCounts sent, RowCounts received, const Move& move);
Tensor swap_rows(const Tensor& x, RowCounts sent, RowCounts received, const Move& move);
// x [rows, columns] <-> [rows * ranks, columns / ranks].
Tensor swap_rows_for_columns(const Tensor& x, const Move& move);
Tensor swap_columns_for_rows(const Tensor& x, const Move& move);
// From the rank that stands `by` places before this one, in a ring.
Tensor pass(const Tensor& x, int by, const Move& move);

// x, or a copy that has no pitch.
Tensor contiguous(const Tensor& x);
// The memory of a contiguous tensor.
Bytes bytes_of(const Tensor& x);

}  // namespace pf
