#include "core/cpu/panels.h"

namespace pf {

template <class T>
const PanelKernels<T>& panel_kernels(Isa isa) {
  if (isa == Isa::v4) return v4::panel_kernels<T>();
  if (isa == Isa::v3) return v3::panel_kernels<T>();
  return base::panel_kernels<T>();
}

template const PanelKernels<float>& panel_kernels(Isa isa);
template const PanelKernels<double>& panel_kernels(Isa isa);

const Widening& widening(Isa isa) {
  if (isa == Isa::v4) return v4::widening();
  if (isa == Isa::v3) return v3::widening();
  return base::widening();
}

}  // namespace pf
