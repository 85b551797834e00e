// Thread ranks for tests, each with a CPU of its own and a mesh.
#pragma once

#include <functional>
#include <numeric>
#include <vector>

#include "core/backend.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace pf {

// Runs body(mesh) on the ranks of `layout`. Throws what run_thread_ranks() throws.
inline void in_ranks(const Layout& layout, const std::function<void(const Mesh&)>& body) {
  run_thread_ranks(layout.ranks(), [&](Communicator& communicator) {
    Device device(make_cpu_backend(1));
    std::vector<int> ranks(std::size_t(layout.ranks()));
    std::iota(ranks.begin(), ranks.end(), 0);
    const Mesh mesh(communicator, device, layout, ranks);
    body(mesh);
  });
}

// On `ranks` ranks along dp (in the other view: edp).
inline void in_ranks(int ranks, const std::function<void(const Mesh&)>& body) {
  in_ranks(Layout{.dp = ranks, .edp = ranks}, body);
}

}  // namespace pf
