#include "core/backend.h"
#include "core/error.h"

namespace pf {

std::unique_ptr<Backend> make_cuda_backend(int) {
  throw Error("this build has no CUDA; configure it where nvcc is found");
}

std::string cuda_description() {
  return "no CUDA in this build";
}

}  // namespace pf
