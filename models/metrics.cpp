#include "models/metrics.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "parallel/collectives.h"
#include "parallel/table.h"

namespace pf {
namespace {

const Axes everywhere = axes::tp * axes::cp * axes::dp * axes::pp;

// Of what ranks hold as `label`: what each adds to the sum over all of them.
Axes once_on(const Label& label) {
  Axes set;
  for (const Axis a : everywhere)
    if (label[a] == Spread::invariant || label[a] == Spread::replicated) set.push_back(a);
  return set;
}

// The parts of a sum that the ranks of a mesh hold, each rank those that it has.
class Sums {
 public:
  Sums(const Mesh& mesh, std::int64_t size) : mesh_(&mesh) {
    const Label open =
        constant(dense(Spread::partial, Spread::partial, Spread::partial, Spread::partial));
    parts_ = Tensor::zeros({size}, DType::f64, mesh.device(), open);
  }

  // x's elements are those from `at` on of the vector.
  void add(std::int64_t at, const Tensor& x) {
    if (mesh_->coordinate(once_on(x.label())) != 0) return;
    const Tensor own = parts_.rows(at, at + x.size());
    const Tensor sum = Tensor::like(own);
    const Tensor terms[] = {
        own, cast(contiguous(x.detached()), DType::f64).reshaped({x.size()}).labelled(own.label())};
    backend(sum).add(sum, terms);
    backend(sum).copy(own, sum);
  }
  void add(std::int64_t at, const std::map<int, Tensor>& slots) {
    for (const auto& [slot, x] : slots) add(at, x);
  }

  // The same on every rank.
  std::vector<double> over_mesh() const {
    return all_reduce(parts_, *mesh_, everywhere).to_vector<double>();
  }

 private:
  const Mesh* mesh_;
  Tensor parts_;
};

// [1, experts] of each MoE layer, from `begin` on.
void add_layers(Sums& sums, std::int64_t begin, const MoeLayers& moe,
                const std::map<int, Tensor>& layers) {
  for (const auto& [layer, x] : layers) {
    const auto found = std::ranges::find(moe.numbers, layer);
    require(found != moe.numbers.end(), "metrics: layer ", layer, " has no experts");
    sums.add(begin + (found - moe.numbers.begin()) * moe.experts, x);
  }
}

double sum_of(const std::vector<double>& xs) {
  return std::accumulate(xs.begin(), xs.end(), 0.0);
}

}  // namespace

double loss_over_mesh(const Mesh& mesh, const Statistics& statistics) {
  Sums sums(mesh, 1);
  sums.add(0, statistics.losses);
  return sums.over_mesh()[0];
}

StepStatistics over_mesh(const Mesh& mesh, const MoeLayers& moe,
                         std::span<const Statistics> micro_batches, int signal) {
  const std::int64_t experts = moe.experts, choices = std::ssize(moe.numbers) * experts;
  Sums sums(mesh, 3 + 2 * choices);
  for (const Statistics& s : micro_batches) {
    sums.add(0, s.losses);
    sums.add(1, s.balance_losses);
    sums.add(1, s.second_balance_losses);
    sums.add(2, s.z_losses);
    add_layers(sums, 3, moe, s.counts);
    add_layers(sums, 3 + choices, moe, s.kept);
  }
  const std::vector<double> all = sums.over_mesh();
  StepStatistics out{all[0], all[1], all[2], moe.numbers, {}, {}, 0};
  for (std::size_t i = 0; i < moe.numbers.size(); ++i) {
    const auto at = all.begin() + 3 + std::ptrdiff_t(i) * experts;
    out.expert_counts.emplace_back(at, at + experts);
    if (!moe.drops) continue;
    const double chosen = sum_of(out.expert_counts.back());
    const double kept = std::accumulate(at + choices, at + choices + experts, 0.0);
    out.dropped.push_back(chosen == 0 ? 0 : 1 - kept / chosen);
  }
  Label mine = constant(dense(Spread::rows, Spread::rows, Spread::rows, Spread::layers));
  const Tensor stop = Tensor::scalar(signal, DType::f64, mesh.device(), mine);
  out.signal = int(all_max(stop, mesh, everywhere).item());
  return out;
}

std::vector<std::vector<double>> layers_over_mesh(const Mesh& mesh, const MoeLayers& moe,
                                                  const std::map<int, Tensor>& layers) {
  Sums sums(mesh, std::ssize(moe.numbers) * moe.experts);
  add_layers(sums, 0, moe, layers);
  const std::vector<double> all = sums.over_mesh();
  std::vector<std::vector<double>> out;
  for (auto at = all.begin(); at != all.end(); at += moe.experts)
    out.emplace_back(at, at + moe.experts);
  return out;
}

std::vector<double> sum_over_replicas(const Mesh& mesh, const std::vector<double>& values) {
  const Label mine =
      constant(dense(Spread::replicated, Spread::replicated, Spread::rows, Spread::replicated));
  const Tensor x =
      Tensor::empty({std::int64_t(values.size())}, DType::f64, mesh.device(), total(mine));
  if (!x.is_meta()) std::ranges::copy(values, x.data<double>());
  return all_reduce(x, mesh, axes::dp).to_vector<double>();
}

std::vector<std::int64_t> largest_over_mesh(const Mesh& mesh,
                                            const std::vector<std::int64_t>& values) {
  const Label mine = constant(dense(Spread::rows, Spread::rows, Spread::rows, Spread::layers));
  const Tensor x = Tensor::empty({std::int64_t(values.size())}, DType::i64, mesh.device(), mine);
  if (!x.is_meta()) std::ranges::copy(values, x.data<std::int64_t>());
  return all_max(x, mesh, everywhere).to_vector<std::int64_t>();
}

std::vector<std::vector<double>> logits_of_token(const Mesh& mesh, const Tensor& logits,
                                                 const Batch& batch, std::int64_t token,
                                                 std::int64_t vocabulary) {
  const Label cut = dense(Spread::columns, Spread::replicated, Spread::replicated);
  const Block block = mesh.place("logits", {1, vocabulary}, cut, true);
  require(token >= 0 && token < batch.length, "logits: of token ", token, " of ", batch.length);
  require(!logits || logits.columns() == block.extents[1], "logits: from ", logits.text(),
          " of a vocabulary of ", vocabulary);
  const Label sum =
      constant(dense(Spread::partial, Spread::partial, Spread::rows, Spread::partial));
  const Tensor all = Tensor::zeros({batch.sequences, vocabulary}, DType::f64, mesh.device(), sum);
  const std::int64_t begin = block.begin[1], end = begin + block.extents[1];
  for (std::int64_t s = 0; s < batch.sequences && logits; ++s)
    for (const RowRange& range : batch.queries) {
      const std::int64_t row = range.row + s * batch.length + token - range.begin;
      if (row < range.row || row >= range.row + range.size()) continue;
      backend(all).copy(all.rows(s, s + 1).columns(begin, end), logits.rows(row, row + 1));
    }
  const std::vector<double> flat =
      all_reduce(all, mesh, axes::tp * axes::cp * axes::pp).to_vector<double>();
  std::vector<std::vector<double>> out;
  for (auto at = flat.begin(); at != flat.end(); at += vocabulary)
    out.emplace_back(at, at + vocabulary);
  return out;
}

}  // namespace pf
