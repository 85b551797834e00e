// Rows to their experts and back.
#pragma once

#include "core/ops/routing.h"
#include "parallel/mesh.h"

namespace pf {

// Rows as the experts of this rank see them, and what it takes to bring them back.
struct Dispatched {
  ExpertRows rows;
  std::vector<std::int64_t> sent, received;  // rows to and from each rank of ep
  std::vector<std::int64_t> gathered;        // rows of each rank of etp
  Plan by_expert;                            // their order; empty where they are in it as they come
};

// Crosses to the expert view and sends rows, which are sorted by expert, to the ranks of ep that
// hold their experts, who hold as many each, in order; gathers them over etp and sorts them by
// expert again, of one expert by etp, then by ep rank that they came from. One small exchange tells
// every rank what it receives.
Dispatched dispatch(const Permuted& rows, const Plan& plan, const Mesh& mesh);

// The way back for the experts' outputs [rows, hidden], partial over etp: in the order of
// permute().
Tensor bring_back(const Tensor& y, const Dispatched& there, const Mesh& mesh);

}  // namespace pf
