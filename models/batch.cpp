#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "models/context_parallel.h"

namespace pf {
namespace {

template <class T, class Value>
Tensor make(const Mesh& mesh, std::int64_t size, DType type, Value value) {
  const Label label =
      constant(dense(Spread::replicated, Spread::rows, Spread::rows, Spread::replicated));
  Tensor x = Tensor::empty({size}, type, mesh.device(), label, "make_batch");
  if (x.is_meta()) return x;
  for (std::int64_t i = 0; i < size; ++i) x.data<T>()[i] = T(value(i));
  return x;
}

// The first rows of all sequences and documents, ascending.
std::vector<std::int64_t> document_begins(const Sequences& sampled, std::int64_t length) {
  const auto& starts = sampled.starts;
  require(std::ranges::is_sorted(starts) &&
              (starts.empty() || (starts.front() >= 0 && starts.back() < sampled.count * length)),
          "batch: documents begin at rows that are not ascending, or not among ",
          sampled.count * length);
  std::vector<std::int64_t> firsts, begins;
  for (std::int64_t s = 0; s < sampled.count; ++s) firsts.push_back(s * length);
  std::ranges::set_union(firsts, starts, std::back_inserter(begins));
  return begins;
}

}  // namespace

Batch make_batch(const Mesh& mesh, const Sequences& sampled, DType type) {
  const auto tokens = std::int64_t(sampled.ids.size());
  require(sampled.count > 0 && tokens > 0 && tokens % sampled.count == 0 &&
              sampled.targets.size() == sampled.ids.size(),
          "batch: ", tokens, " ids and ", sampled.targets.size(), " targets in ", sampled.count,
          " sequences");
  require(sampled.counts.empty() || sampled.counts.size() == sampled.ids.size(),
          "batch: ", sampled.counts.size(), " marks of targets that count for ", tokens,
          " targets");
  const PurposeScope of_part("batch");
  Batch batch;
  batch.sequences = sampled.count;
  batch.length = tokens / sampled.count;
  const std::int64_t length = batch.length;
  const std::vector<std::int64_t> begins = document_begins(sampled, length);
  const auto i32 = [&](auto value) { return make<std::int32_t>(mesh, tokens, DType::i32, value); };
  const auto sums = [&](auto value) {
    const DType sum = accumulation(type);
    return sum == DType::f64 ? make<double>(mesh, tokens, sum, value)
                             : make<float>(mesh, tokens, sum, value);
  };
  batch.ids = i32([&](auto i) { return sampled.ids[std::size_t(i)]; });
  batch.targets = i32([&](auto i) { return sampled.targets[std::size_t(i)]; });
  batch.mask =
      sums([&](auto i) { return sampled.counts.empty() || sampled.counts[std::size_t(i)]; });
  batch.present = sums([](auto) { return 1; });
  batch.position = i32([&](auto i) { return i - *std::prev(std::ranges::upper_bound(begins, i)); });
  batch.token = make<std::int64_t>(mesh, tokens, DType::i64,
                                   [&](auto i) { return sampled.first_sample * length + i; });
  batch.sequence = i32([&](auto i) { return i / length; });
  for (std::size_t d = 0; d < begins.size(); ++d) {
    const std::int64_t end = d + 1 < begins.size() ? begins[d + 1] : tokens;
    batch.areas.push_back({begins[d], end, begins[d], end, Area::Kind::causal});
  }
  return cut_over_cp(batch, mesh);
}

}  // namespace pf
