#include "core/error.h"
#include "core/ops/attention.h"
#include "models/context_parallel.h"

namespace pf {
namespace {

template <class T, class Value>
Tensor make(const Mesh& mesh, std::int64_t size, DType type, Value value) {
  const Label label =
      constant(dense(Spread::replicated, Spread::rows, Spread::rows, Spread::replicated));
  Tensor x = Tensor::empty({size}, type, mesh.device(), label);
  if (x.is_meta()) return x;
  for (std::int64_t i = 0; i < size; ++i) x.data<T>()[i] = T(value(i));
  return x;
}

}  // namespace

Batch make_batch(const Mesh& mesh, std::span<const std::int32_t> ids,
                 std::span<const std::int32_t> targets, std::int64_t sequences,
                 std::int64_t first_sample, DType type) {
  const auto tokens = std::int64_t(ids.size());
  require(sequences > 0 && tokens % sequences == 0 && targets.size() == ids.size(),
          "batch: ", tokens, " ids and ", targets.size(), " targets in ", sequences, " sequences");
  Batch batch;
  batch.sequences = sequences;
  batch.length = tokens / sequences;
  const std::int64_t length = batch.length;
  batch.ids =
      make<std::int32_t>(mesh, tokens, DType::i32, [&](auto i) { return ids[std::size_t(i)]; });
  batch.targets =
      make<std::int32_t>(mesh, tokens, DType::i32, [&](auto i) { return targets[std::size_t(i)]; });
  const DType sums = accumulation(type);
  batch.mask = sums == DType::f64 ? make<double>(mesh, tokens, sums, [](auto) { return 1; })
                                  : make<float>(mesh, tokens, sums, [](auto) { return 1; });
  batch.position = make<std::int32_t>(mesh, tokens, DType::i32, [&](auto i) { return i % length; });
  batch.token = make<std::int64_t>(mesh, tokens, DType::i64,
                                   [&](auto i) { return first_sample * length + i; });
  batch.sequence = make<std::int32_t>(mesh, tokens, DType::i32, [&](auto i) { return i / length; });
  batch.areas = causal_areas(sequences, length);
  return cut_over_cp(batch, mesh);
}

}  // namespace pf
