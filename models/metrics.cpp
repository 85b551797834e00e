#include "models/metrics.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "parallel/table.h"

namespace pf {
namespace {

const Axes everywhere = axes::tp * axes::cp * axes::dp * axes::pp;

// The axes on which x is still a sum to be made.
Tensor summed(const Tensor& x, const Mesh& mesh) {
  Axes open;
  for (const Axis a : everywhere)
    if (x.label()[a] == Spread::partial) open.push_back(a);
  return open.empty() ? x : all_reduce(x, mesh, open);
}

// Of scalars of one label, in the order of their slots.
Tensor sum_of(const std::vector<Tensor>& xs) {
  Tensor y = Tensor::like(xs[0]);
  backend(y).add(y, xs);
  return y;
}

double sum_over_mesh(const Mesh& mesh, const std::vector<Tensor>& xs) {
  return xs.empty() ? 0 : summed(sum_of(xs), mesh).item();
}

std::map<int, Tensor> sums_of(const std::map<int, std::vector<Tensor>>& layers) {
  std::map<int, Tensor> sums;
  for (const auto& [layer, xs] : layers) sums[layer] = sum_of(xs);
  return sums;
}

double sum_of(const std::vector<double>& xs) {
  return std::accumulate(xs.begin(), xs.end(), 0.0);
}

void append(std::vector<Tensor>& to, const std::map<int, Tensor>& slots) {
  for (const auto& [slot, x] : slots) to.push_back(x);
}

}  // namespace

double loss_over_mesh(const Mesh& mesh, const Statistics& statistics) {
  std::vector<Tensor> losses;
  append(losses, statistics.losses);
  return sum_over_mesh(mesh, losses);
}

StepStatistics over_mesh(const Mesh& mesh, std::span<const Statistics* const> micro_batches,
                         int signal, DType type) {
  std::vector<Tensor> losses, balance, z;
  std::map<int, std::vector<Tensor>> counts, kept;
  for (const Statistics* s : micro_batches) {
    append(losses, s->losses);
    append(balance, s->balance_losses);
    append(balance, s->second_balance_losses);
    append(z, s->z_losses);
    for (const auto& [layer, x] : s->counts) counts[layer].push_back(x);
    for (const auto& [layer, x] : s->kept) kept[layer].push_back(x);
  }
  StepStatistics out;
  out.loss = sum_over_mesh(mesh, losses);
  out.balance_loss = sum_over_mesh(mesh, balance);
  out.z_loss = sum_over_mesh(mesh, z);
  out.expert_counts = layers_over_mesh(mesh, sums_of(counts));
  for (const auto& [layer, xs] : counts) out.moe_layers.push_back(layer);
  const auto in_capacity = layers_over_mesh(mesh, sums_of(kept));
  for (std::size_t i = 0; i < in_capacity.size(); ++i) {
    const double all = sum_of(out.expert_counts[i]);
    out.dropped.push_back(all == 0 ? 0 : 1 - sum_of(in_capacity[i]) / all);
  }
  Label mine = constant(dense(Spread::rows, Spread::rows, Spread::rows, Spread::layers));
  const Tensor stop = Tensor::scalar(signal, accumulation(type), mesh.device(), mine);
  out.signal = int(all_max(stop, mesh, everywhere).item());
  return out;
}

std::vector<std::vector<double>> layers_over_mesh(const Mesh& mesh,
                                                  const std::map<int, Tensor>& layers) {
  if (layers.empty()) return {};
  const Tensor& like = layers.begin()->second;
  const Tensor all = Tensor::empty({std::int64_t(layers.size()), like.columns()}, like.dtype(),
                                   like.device(), total(like.label()));
  std::int64_t row = 0;
  for (const auto& [layer, x] : layers) {
    backend(all).copy(all.rows(row, row + 1), x);
    ++row;
  }
  const std::vector<double> flat = cast(summed(all, mesh), DType::f64).to_vector<double>();
  std::vector<std::vector<double>> out;
  for (auto at = flat.begin(); at != flat.end(); at += like.columns())
    out.emplace_back(at, at + like.columns());
  return out;
}

std::vector<double> sum_over_replicas(const Mesh& mesh, const std::vector<double>& values) {
  const Label mine =
      constant(dense(Spread::replicated, Spread::replicated, Spread::rows, Spread::replicated));
  const Tensor x =
      Tensor::empty({std::int64_t(values.size())}, DType::f64, mesh.device(), total(mine));
  std::ranges::copy(values, x.data<double>());
  return all_reduce(x, mesh, axes::dp).to_vector<double>();
}

std::vector<std::int64_t> largest_over_mesh(const Mesh& mesh,
                                            const std::vector<std::int64_t>& values) {
  const Label mine = constant(dense(Spread::rows, Spread::rows, Spread::rows, Spread::layers));
  const Tensor x = Tensor::empty({std::int64_t(values.size())}, DType::i64, mesh.device(), mine);
  std::ranges::copy(values, x.data<std::int64_t>());
  return all_max(x, mesh, everywhere).to_vector<std::int64_t>();
}

std::vector<std::vector<double>> logits_of_token(const Mesh& mesh, const Tensor& logits,
                                                 const Batch& batch, std::int64_t token,
                                                 std::int64_t vocabulary) {
  const Label cut = dense(Spread::columns, Spread::replicated, Spread::replicated);
  const Block block = mesh.place("logits", {1, vocabulary}, cut, true);
  require(token >= 0 && token < batch.length && logits.columns() == block.extents[1],
          "logits: of token ", token, " of ", batch.length, ", from ", logits.text(),
          " of a vocabulary of ", vocabulary);
  const Label sum = constant(dense(Spread::partial, Spread::partial, Spread::rows));
  const Tensor all = Tensor::zeros({batch.sequences, vocabulary}, DType::f64, mesh.device(), sum);
  const std::int64_t begin = block.begin[1], end = begin + block.extents[1];
  for (std::int64_t s = 0; s < batch.sequences; ++s)
    for (const RowRange& range : batch.queries) {
      const std::int64_t row = range.row + s * batch.length + token - range.begin;
      if (row < range.row || row >= range.row + range.size()) continue;
      backend(all).copy(all.rows(s, s + 1).columns(begin, end), logits.rows(row, row + 1));
    }
  const std::vector<double> flat = all_reduce(all, mesh, axes::tp * axes::cp).to_vector<double>();
  std::vector<std::vector<double>> out;
  for (auto at = flat.begin(); at != flat.end(); at += vocabulary)
    out.emplace_back(at, at + vocabulary);
  return out;
}

}  // namespace pf
