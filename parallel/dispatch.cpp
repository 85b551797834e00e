#include "parallel/dispatch.h"

#include "core/error.h"
#include "parallel/table.h"

namespace pf {

Dispatched dispatch(const Permuted& rows, const Plan& plan, const Mesh& mesh) {
  require(mesh.size(axes::ep) == 1 && mesh.size(axes::etp) == 1, "dispatch: ep is ",
          mesh.size(axes::ep), " and etp ", mesh.size(axes::etp),
          "; this version dispatches within a rank: use 1");
  Dispatched there;
  there.rows.counts = backend(rows.x).read_counts(plan.counts, rows.x.rows());
  there.sent = there.received = {rows.x.rows()};
  const auto send = [&](const Tensor& x) {
    const Tensor y = all_to_all(cross(x, mesh), mesh, axes::ep, {there.sent, there.received},
                                Spread::rows, Spread::experts);
    return all_gather(y, mesh, axes::etp);
  };
  there.rows.x = send(rows.x);
  there.rows.weights = send(rows.weights);
  return there;
}

Tensor bring_back(const Tensor& y, const Dispatched& there, const Mesh& mesh) {
  const Tensor mine = reduce_scatter(y, mesh, axes::etp);
  return cross(
      all_to_all(mine, mesh, axes::ep, {there.received, there.sent}, Spread::experts, Spread::rows),
      mesh);
}

}  // namespace pf
