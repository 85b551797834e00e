#include "core/cpu/kernels.h"

namespace pf {

const Kernels& kernels(Isa isa, DType type) {
  return of_isa(isa, base::kernels, v3::kernels, v4::kernels)(type);
}

}  // namespace pf
