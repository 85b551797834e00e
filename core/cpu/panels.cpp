#include "core/cpu/panels.h"

namespace pf {

template <class T>
const PanelKernels<T>& panel_kernels(Isa isa) {
  return of_isa(isa, base::panel_kernels<T>, v3::panel_kernels<T>, v4::panel_kernels<T>)();
}

template const PanelKernels<float>& panel_kernels(Isa isa);
template const PanelKernels<double>& panel_kernels(Isa isa);

const Bf16Loops& bf16_loops(Isa isa) {
  return of_isa(isa, base::bf16_loops, v3::bf16_loops, v4::bf16_loops)();
}

}  // namespace pf
