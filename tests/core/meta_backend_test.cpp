// What the meta backend says without memory.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/backend.h"
#include "tests/core/kernels_reference.h"

namespace pf::test {
namespace {

TEST(MetaBackend, SizesAreTheTargetsAndNothingIsAllocatedOrComputed) {
  CpuBackend cpu(3);
  Device meta(make_meta_backend(std::make_unique<CpuBackend>(3)));
  const Tensor x = Tensor::zeros({100, 64}, DType::bf16, meta),
               w = Tensor::zeros({64}, DType::f32, meta);
  EXPECT_EQ(x.raw(), nullptr);
  EXPECT_EQ(meta.memory().live, 100 * 64 * 2 + 64 * 4u);
  EXPECT_EQ(meta.backend().rms_norm_workspace(x, w), cpu.rms_norm_workspace(x, w));
  Packed packed{.groups = 4,
                .inputs = 64,
                .outputs = 96,
                .type = DType::bf16,
                .parts = {Tensor::zeros({4, 96, 64}, DType::f32, meta)},
                .forward = {},
                .backward = {}};
  EXPECT_EQ(meta.backend().packed_bytes(packed), cpu.packed_bytes(packed));
  packed.forward = Tensor::empty({std::int64_t(cpu.packed_bytes(packed))}, DType::u8, meta);
  EXPECT_EQ(meta.backend().adamw_workspace({}, &packed), cpu.adamw_workspace({}, &packed));
  meta.backend().swiglu(x, x, x, {});
  EXPECT_EQ(meta.backend().description(), "meta of " + cpu.description());
}

TEST(MetaBackend, CountsAreSharedOutEvenly) {
  Device meta(make_meta_backend(make_cpu_backend(1)));
  const Tensor counts = Tensor::empty({4}, DType::i64, meta);
  EXPECT_EQ(meta.backend().read_counts(counts, 11), (std::vector<std::int64_t>{3, 3, 3, 2}));
  EXPECT_EQ(meta.backend().read_counts(counts, 0), (std::vector<std::int64_t>{0, 0, 0, 0}));
}

}  // namespace
}  // namespace pf::test
