#include "core/cpu/kernels.h"

namespace pf {

const Kernels& kernels(Isa isa, DType type) {
  switch (isa) {
    case Isa::v4:
      return v4::kernels(type);
    case Isa::v3:
      return v3::kernels(type);
    default:
      return base::kernels(type);
  }
}

}  // namespace pf
