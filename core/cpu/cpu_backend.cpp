#include "core/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "core/aligned.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/trace.h"

namespace pf {
namespace {

// Below this many elements a kernel is quicker than waking the workers.
constexpr std::int64_t least_elements = 16384;

// By which memory grows: a few huge pages.
constexpr std::size_t step = std::size_t{4} << 20;

std::array<std::byte, 8> pattern_of(DType type, double value) {
  std::array<std::byte, 8> bytes{};
  const auto put = [&](auto typed) { std::memcpy(bytes.data(), &typed, sizeof typed); };
  switch (type) {
    case DType::f64:
      put(value);
      break;
    case DType::f32:
      put(float(value));
      break;
    case DType::bf16:
      put(Bf16(float(value)));
      break;
    case DType::i64:
      put(std::int64_t(value));
      break;
    case DType::i32:
      put(std::int32_t(value));
      break;
    case DType::u8:
      put(std::uint8_t(value));
      break;
  }
  return bytes;
}

// Repeats the first `size` bytes of a pattern.
void repeat(std::byte* to, std::size_t bytes, const std::array<std::byte, 8>& pattern,
            std::size_t size) {
  if (std::ranges::all_of(pattern, [&](std::byte b) { return b == pattern[0]; }) ||
      (size == 1 && bytes > 0)) {
    std::memset(to, int(pattern[0]), bytes);
    return;
  }
  constexpr std::size_t most = 4096;
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t known = std::min(done, most);
    const std::size_t part = done == 0 ? size : std::min(known, bytes - done);
    std::memcpy(to + done, done == 0 ? pattern.data() : to, part);
    done += part;
  }
}

std::size_t whole_steps(std::size_t bytes) {
  return (bytes + step - 1) / step * step;
}

// "3 0 5"
std::string text_of(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t number : numbers)
    text += (text.empty() ? "" : " ") + std::to_string(number);
  return text;
}

}  // namespace

CpuBackend::CpuBackend(int workers, int first_processor, Isa isa)
    : isa_(isa),
      workers_(workers, first_processor),
      products_(workers_, isa),
      attention_(workers_, isa) {}

std::string CpuBackend::description() const {
  const int count = workers_.count();
  return "cpu, " + std::to_string(count) + (count == 1 ? " thread, " : " threads, ") +
         processor_features(isa_);
}

std::size_t CpuBackend::range_bytes() const {
  return std::size_t{16} << 30;
}

void* CpuBackend::reserve(std::size_t bytes) {
  void* range = mmap(nullptr, whole_steps(bytes), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return range == MAP_FAILED ? nullptr : range;
}

// What is more than a small rank needs is advised to use huge pages: faults are dear.
bool CpuBackend::commit(void* range, std::size_t begin, std::size_t end) {
  begin = whole_steps(begin);
  end = whole_steps(end);
  if (begin == end) return true;
  auto* first = static_cast<std::byte*>(range);
  if (mprotect(first + begin, end - begin, PROT_READ | PROT_WRITE) != 0) return false;
  begin = std::max(begin, step);
  if (begin < end) madvise(first + begin, end - begin, MADV_HUGEPAGE);
  return true;
}

void CpuBackend::release(void* range, std::size_t bytes) {
  munmap(range, whole_steps(bytes));
}

void CpuBackend::share(std::int64_t size, std::int64_t grain, std::int64_t cost, const Part& part) {
  if (size == 0) return;
  if (size * cost <= least_elements || workers_.count() == 1)
    part(0, size, 0);
  else
    workers_.split(size, grain, part);
}

void CpuBackend::over_elements(const Tensor& y, const Part& part) {
  share(y.size(), 1024, 1, part);
}

void CpuBackend::over_rows(std::int64_t rows, std::int64_t columns, const Part& part) {
  share(rows, std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(1, columns)), columns, part);
}

double CpuBackend::add_up(std::int64_t size, std::int64_t columns,
                          const std::function<double(std::int64_t, std::int64_t)>& part) {
  const std::int64_t piece = std::max<std::int64_t>(1, 65536 / std::max<std::int64_t>(1, columns));
  const std::int64_t pieces = (size + piece - 1) / piece;
  std::vector<double> sums(std::size_t(pieces), 0.0);
  share(pieces, 1, std::min(size, piece) * columns, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i)
      sums[std::size_t(i)] = part(i * piece, std::min(size, (i + 1) * piece));
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

// --- Elementwise ---------------------------------------------------------------------------------

void CpuBackend::fill(const Tensor& y, double value) {
  const Span span("kernel", "fill");
  const auto pattern = pattern_of(y.dtype(), value);
  const std::size_t size = size_of(y.dtype());
  if (y.is_contiguous())
    return over_elements(y, [&](std::int64_t begin, std::int64_t end, int) {
      repeat(row_of(y, 0) + std::size_t(begin) * size, std::size_t(end - begin) * size, pattern,
             size);
    });
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r)
      repeat(row_of(y, r), std::size_t(y.columns()) * size, pattern, size);
  });
}

void CpuBackend::copy(const Tensor& y, const Tensor& x) {
  const Span span("kernel", "copy");
  if (y.dtype() != x.dtype())
    return over_elements(
        y, [&](std::int64_t begin, std::int64_t end, int) { of(y).copy(y, x, begin, end); });
  const std::size_t size = size_of(y.dtype());
  if (y.is_contiguous() && x.is_contiguous())
    return over_elements(y, [&](std::int64_t begin, std::int64_t end, int) {
      std::memcpy(row_of(y, 0) + std::size_t(begin) * size,
                  row_of(x, 0) + std::size_t(begin) * size, std::size_t(end - begin) * size);
    });
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r)
      std::memcpy(row_of(y, r), row_of(x, r), std::size_t(y.columns()) * size);
  });
}

void CpuBackend::add(const Tensor& y, std::span<const Tensor> xs) {
  const Span span("kernel", "add");
  over_elements(y,
                [&](std::int64_t begin, std::int64_t end, int) { of(y).add(y, xs, begin, end); });
}

void CpuBackend::scale(const Tensor& y, const Tensor& x, double factor) {
  const Span span("kernel", "scale");
  over_elements(
      y, [&](std::int64_t begin, std::int64_t end, int) { of(y).scale(y, x, factor, begin, end); });
}

void CpuBackend::swiglu(const Tensor& y, const Tensor& gate, const Tensor& up, const Tensor& row) {
  const Span span("kernel", "swiglu");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).swiglu(y, gate, up, row, begin, end);
  });
}

void CpuBackend::swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& drow,
                                 const Tensor& y, const Tensor& dy, const Tensor& gate,
                                 const Tensor& up, const Tensor& row) {
  const Span span("kernel", "swiglu_backward");
  over_rows(dy.rows(), dy.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(dy).swiglu_backward(dgate, dup, drow, y, dy, gate, up, row, begin, end);
  });
}

void CpuBackend::activation(const Tensor& y, const Tensor& x, ActivationKind kind) {
  const Span span("kernel", "activation");
  over_elements(y, [&](std::int64_t begin, std::int64_t end, int) {
    of(y).activation(y, x, kind, begin, end);
  });
}

void CpuBackend::activation_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                                     ActivationKind kind) {
  const Span span("kernel", "activation_backward");
  over_elements(dx, [&](std::int64_t begin, std::int64_t end, int) {
    of(dx).activation_backward(dx, dy, x, kind, begin, end);
  });
}

void CpuBackend::add_row(const Tensor& y, const Tensor& x, const Tensor& row) {
  const Span span("kernel", "add_row");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).add_row(y, x, row, begin, end);
  });
}

// Workers own columns: rows are added in order.
void CpuBackend::add_row_backward(const GradientTarget& drow, const Tensor& dy) {
  const Span span("kernel", "add_row_backward");
  share(dy.columns(), 32, dy.rows(), [&](std::int64_t begin, std::int64_t end, int) {
    of(dy).add_row_backward(drow, dy, begin, end);
  });
}

void CpuBackend::dropout(const Tensor& y, const Tensor& x, double p, const Random& random,
                         const Tensor& token, std::int64_t width, std::int64_t first_column) {
  const Span span("kernel", "dropout");
  over_rows(y.rows(), y.columns(), [&](std::int64_t begin, std::int64_t end, int) {
    of(y).dropout(y, x, p, random, token, width, first_column, begin, end);
  });
}

void CpuBackend::normal(const Tensor& y, const Random& random, double std, const Shape& whole,
                        std::span<const std::int64_t> begin) {
  const Span span("kernel", "normal");
  over_elements(y, [&](std::int64_t from, std::int64_t to, int) {
    of(y).normal(y, random, std, whole, begin, from, to);
  });
}

// --- Products ------------------------------------------------------------------------------------

std::size_t CpuBackend::packed_bytes(const Packed& w) {
  return products_.packed_bytes(w);
}

std::size_t CpuBackend::pack_workspace(const Packed& w) {
  return products_.pack_workspace(w);
}

void CpuBackend::pack(Packed& w, const Tensor& work) {
  const Span span("kernel", "pack");
  products_.pack(w, work);
}

std::size_t CpuBackend::product_workspace(std::int64_t rows, const Packed& w) {
  return products_.product_workspace(rows, w);
}

void CpuBackend::product(const Tensor& y, const Tensor& x, const Packed& w,
                         std::span<const std::int64_t> counts, const Tensor& work) {
  const Span span("kernel", "product");
  products_.product(y, x, w, counts, work);
}

void CpuBackend::product_input_gradient(const Tensor& dx, const Tensor& dy, const Packed& w,
                                        std::span<const std::int64_t> counts, const Tensor& work) {
  const Span span("kernel", "product_input_gradient");
  products_.product_input_gradient(dx, dy, w, counts, work);
}

void CpuBackend::product_weight_gradient(std::span<const GradientTarget> dws, const Tensor& dy,
                                         const Tensor& x, const Packed& w,
                                         std::span<const std::int64_t> counts, const Tensor& work) {
  const Span span("kernel", "product_weight_gradient");
  products_.product_weight_gradient(dws, dy, x, w, counts, work);
}

// --- Weights -------------------------------------------------------------------------------------

void CpuBackend::reduce(const Tensor& y, std::span<const Tensor> xs, const Tensor& squares) {
  const Span span("kernel", "reduce");
  const double sum = add_up(y.size(), 1, [&](std::int64_t begin, std::int64_t end) {
    return of(y).reduce(y, xs, begin, end);
  });
  *squares.data<double>() += sum;
}

std::size_t CpuBackend::adamw_workspace(std::span<const AdamWTensor>, const Packed* packed) {
  if (packed == nullptr || !packed->forward) return 0;
  if (!packs_by_group(*packed)) return products_.pack_workspace(*packed);
  return std::size_t(workers_.count()) *
         aligned(std::size_t(packed->outputs * packed->inputs) * sizeof(Bf16));
}

// With more groups than workers each group is packed while its new values are in the cache.
bool CpuBackend::packs_by_group(const Packed& packed) const {
  return packed.type == DType::bf16 && packed.groups >= workers_.count();
}

void CpuBackend::adamw(std::span<const AdamWTensor> tensors, const AdamWStep& step, Packed* packed,
                       const Tensor& work) {
  const Span span("kernel", "adamw");
  if (packed != nullptr && packed->forward && packs_by_group(*packed))
    return adamw_by_group(tensors, step, *packed, work);
  for (const AdamWTensor& tensor : tensors)
    over_elements(tensor.value, [&](std::int64_t begin, std::int64_t end, int) {
      of(tensor.value).adamw(tensor, step, nullptr, begin, end);
    });
  if (packed != nullptr && packed->forward) products_.pack(*packed, work);
}

void CpuBackend::adamw_by_group(std::span<const AdamWTensor> tensors, const AdamWStep& step,
                                Packed& packed, const Tensor& work) {
  const std::int64_t values = packed.outputs * packed.inputs;
  const std::size_t bytes = aligned(std::size_t(values) * sizeof(Bf16));
  workers_.split(packed.groups, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    auto* plain = reinterpret_cast<Bf16*>(row_of(work, 0) + std::size_t(worker) * bytes);
    for (std::int64_t group = begin; group < end; ++group) {
      Bf16* to = plain;
      for (const AdamWTensor& tensor : tensors) {
        const std::int64_t size = tensor.value.size() / packed.groups;
        of(tensor.value).adamw(tensor, step, to, group * size, (group + 1) * size);
        to += size;
      }
      products_.pack_group(packed, group, plain, worker);
    }
  });
}

std::vector<std::int64_t> CpuBackend::read_counts(const Tensor& counts, std::int64_t) {
  Span span("counts", "read_counts");
  std::vector<std::int64_t> read;
  if (counts.dtype() == DType::i64) {
    read = counts.to_vector<std::int64_t>();
  } else {
    const auto narrow = counts.to_vector<std::int32_t>();
    read.assign(narrow.begin(), narrow.end());
  }
  if (span.is_recorded()) span.fact("counts", text_of(read));
  return read;
}

std::unique_ptr<Backend> make_cpu_backend(int workers, int first_processor) {
  return std::make_unique<CpuBackend>(workers, first_processor);
}

}  // namespace pf
