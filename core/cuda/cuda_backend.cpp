#include "core/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <sstream>

#include "core/error.h"

namespace pf {
namespace {

void check(cudaError_t status, const char* what) {
  require(status == cudaSuccess, "CUDA: ", what, ": ", cudaGetErrorString(status));
}

// One after another where the device differs from the current one.
void use(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
}

}  // namespace

CudaBackend::CudaBackend(int device) : device_(device) {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  require(device >= 0 && device < count, "CUDA device ", device, " of ", count);
}

std::string CudaBackend::description() const {
  cudaDeviceProp found{};
  check(cudaGetDeviceProperties(&found, device_), "cudaGetDeviceProperties");
  std::ostringstream out;
  out << found.name << ", " << double(found.totalGlobalMem) / double(1 << 30) << " GiB, compute "
      << found.major << '.' << found.minor;
  return out.str();
}

void* CudaBackend::reserve(std::size_t bytes) {
  use(device_);
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) == cudaSuccess) return data;
  cudaGetLastError();  // forgotten: the caller tries again with less
  return nullptr;
}

void CudaBackend::release(void* range, std::size_t) {
  use(device_);
  check(cudaFree(range), "cudaFree");
}

void CudaBackend::fill(const Tensor& y, double value) {
  if (value != 0) absent("fill");
  use(device_);
  const auto size = size_of(y.dtype());
  check(cudaMemset2D(y.raw(), std::size_t(y.pitch()) * size, 0, std::size_t(y.columns()) * size,
                     std::size_t(y.rows())),
        "cudaMemset2D");
}

void CudaBackend::copy(const Tensor& y, const Tensor& x) {
  if (y.dtype() != x.dtype()) absent("copy");
  require(y.shape() == x.shape(), "copy: ", y.text(), " from ", x.text());
  use(device_);
  const auto size = size_of(y.dtype());
  check(cudaMemcpy2D(y.raw(), std::size_t(y.pitch()) * size, x.raw(), std::size_t(x.pitch()) * size,
                     std::size_t(x.columns()) * size, std::size_t(x.rows()), cudaMemcpyDefault),
        "cudaMemcpy2D");
}

void CudaBackend::absent(const char* kernel) {
  throw Error(std::string(kernel) +
              ": the CUDA backend does not have this kernel yet; use cluster."
              "device: cpu");
}

std::unique_ptr<Backend> make_cuda_backend(int device) {
  return std::make_unique<CudaBackend>(device);
}

std::string cuda_description() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  std::ostringstream out;
  out << "CUDA " << CUDART_VERSION / 1000 << '.' << CUDART_VERSION % 1000 / 10 << ", ";
  if (status != cudaSuccess || count == 0) {
    out << "no device";
  } else {
    out << count << (count == 1 ? " device: " : " devices: ") << CudaBackend(0).description();
  }
  return out.str();
}

}  // namespace pf
